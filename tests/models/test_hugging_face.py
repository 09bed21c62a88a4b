"""Attention's features against the models of transformers that have them."""

from dataclasses import replace

import pytest
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.models.cases import MODERN
from tests.models.hugging_face import SMALL, assert_same_logits, random_model, with_weights
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import Rotary, RotaryScaling
from turnout.config.rotary_scaling import LinearScaling, Llama3Scaling, YarnScaling
from turnout.config.routers import TopKRouter

ROPE = {"rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
LATENT = SMALL | {
    "num_key_value_heads": 4,
    "first_k_dense_replace": 2,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "rope_parameters": ROPE | {"rope_type": "yarn", "mscale": 0.7, "mscale_all_dim": 0.9},
}
YARN = YarnScaling(4.0, 16, mscale=0.7, mscale_all_dim=0.9)
# Dense networks in every layer: what is compared is attention.
DENSE = SMALL | {"mlp_only_layers": [0, 1]}
PLAIN = AttentionConfig(4, 4, num_kv_heads=2)


def test_biases_of_qwen2_moe() -> None:
    theirs = random_model(Qwen2MoeForCausalLM, Qwen2MoeConfig(**DENSE))
    config = replace(MODERN, attention=replace(PLAIN, bias="qkv"))
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


def test_biases_of_all_projections() -> None:
    hugging_face = Qwen3MoeConfig(**DENSE, head_dim=4, attention_bias=True)
    theirs = random_model(Qwen3MoeForCausalLM, hugging_face)
    config = replace(MODERN, attention=replace(PLAIN, bias="all", qk_norm="head"))
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "linear"}, LinearScaling(4.0)),
        ({"rope_type": "yarn"}, YarnScaling(4.0, 16)),
        (
            {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            Llama3Scaling(4.0, 16),
        ),
    ],
    ids=["linear", "yarn", "llama3"],
)
def test_scaled_positions(rope: dict[str, object], scaling: RotaryScaling) -> None:
    length = ROPE["original_max_position_embeddings"] if scaling.kind != "linear" else None
    parameters = ROPE | rope if length else {"rope_theta": 100.0, "factor": 4.0} | rope
    hugging_face = Qwen3MoeConfig(**DENSE, head_dim=8, rope_parameters=parameters)
    theirs = random_model(Qwen3MoeForCausalLM, hugging_face)
    attention = AttentionConfig(4, 8, num_kv_heads=2, qk_norm="head")
    config = replace(MODERN, attention=attention, positions=Rotary(100.0, scaling))
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


def test_a_part_of_each_head_is_rotated_in_glm_4() -> None:
    hugging_face = Glm4MoeConfig(**SMALL, head_dim=8, first_k_dense_replace=2)
    assert hugging_face.rope_parameters["partial_rotary_factor"] == 0.5
    theirs = random_model(Glm4MoeForCausalLM, hugging_face)
    attention = AttentionConfig(4, 8, num_kv_heads=2)
    config = replace(MODERN, attention=attention, positions=Rotary(10_000.0, share=0.5))
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


@pytest.mark.parametrize("window", [1, 5, 16])
def test_a_window_in_all_layers(window: int) -> None:
    hugging_face = Qwen3MoeConfig(
        **DENSE, head_dim=4, use_sliding_window=True, sliding_window=window
    )
    theirs = random_model(Qwen3MoeForCausalLM, hugging_face)
    config = replace(MODERN, attention=replace(PLAIN, qk_norm="head", window=window))
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


def test_a_window_in_every_other_layer() -> None:
    hugging_face = Qwen2MoeConfig(
        **(DENSE | {"num_hidden_layers": 3, "mlp_only_layers": [0, 1, 2]}),
        use_sliding_window=True,
        sliding_window=3,
    )
    assert hugging_face.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    theirs = random_model(Qwen2MoeForCausalLM, hugging_face)
    attention = replace(PLAIN, bias="qkv", window=3, window_pattern=(True, False))
    config = replace(MODERN, num_layers=3, attention=attention)
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


def test_gpt_oss() -> None:
    """Biases, windows, sinks, YaRN and the clamped SwiGLU at once."""
    hugging_face = GptOssConfig(
        **SMALL,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=5,
        rope_parameters=ROPE | {"rope_type": "yarn", "truncate": False},
    )
    assert hugging_face.layer_types == ["sliding_attention", "full_attention"]
    theirs = random_model(GptOssForCausalLM, hugging_face)
    attention = AttentionConfig(
        4, 8, num_kv_heads=2, bias="all", window=5, window_pattern=(True, False), sinks=True
    )
    moe = MoEConfig(
        4,
        TopKRouter(2, "softmax_of_selected", bias=True),
        placement=Placement(step=1),
        train_capacity_factor=None,
    )
    config = replace(
        MODERN,
        attention=attention,
        feed_forward=FeedForwardConfig(24, "clamped_swiglu", bias=True),
        moe=moe,
        positions=Rotary(100.0, YarnScaling(4.0, 16, truncate=False)),
    )
    weights, ours = theirs.state_dict(), {}
    for layer in range(2):
        theirs_at, ours_at = (
            f"model.layers.{layer}.mlp.",
            f"decoder.blocks.{layer}.feed_forward.moe.",
        )
        ours[ours_at + "router.weight"] = weights.pop(theirs_at + "router.weight")
        ours[ours_at + "router.bias"] = weights.pop(theirs_at + "router.bias")
        both = weights.pop(theirs_at + "experts.gate_up_proj").mul_(8)  # so that some are clamped
        biases = weights.pop(theirs_at + "experts.gate_up_proj_bias")
        ours[ours_at + "experts.w_gate"], ours[ours_at + "experts.w_in"] = (
            both[..., ::2],
            both[..., 1::2],
        )
        ours[ours_at + "experts.b_gate"], ours[ours_at + "experts.b_in"] = (
            biases[:, ::2],
            biases[:, 1::2],
        )
        ours[ours_at + "experts.w_out"] = weights.pop(theirs_at + "experts.down_proj")
        ours[ours_at + "experts.b_out"] = weights.pop(theirs_at + "experts.down_proj_bias")
    assert_same_logits(with_weights(config, weights, ours), theirs)


@pytest.mark.parametrize("rank", [None, 5])
def test_latent_attention_of_deepseek_v2(rank: int | None) -> None:
    theirs = random_model(DeepseekV2ForCausalLM, DeepseekV2Config(**LATENT, q_lora_rank=rank))
    config = replace(
        MODERN,
        attention=LatentAttention(4, 8, 4, 4, 6, q_lora_rank=rank),
        positions=Rotary(100.0, YARN, interleaved=True),
    )
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)


@pytest.mark.parametrize("rank", [None, 5])
@pytest.mark.parametrize("interleaved", [False, True])
def test_latent_attention_of_deepseek_v3(rank: int | None, interleaved: bool) -> None:
    hugging_face = DeepseekV3Config(**LATENT, q_lora_rank=rank, rope_interleave=interleaved)
    theirs = random_model(DeepseekV3ForCausalLM, hugging_face)
    config = replace(
        MODERN,
        attention=LatentAttention(4, 8, 4, 4, 6, q_lora_rank=rank),
        positions=Rotary(100.0, YARN, interleaved=interleaved),
    )
    assert_same_logits(with_weights(config, theirs.state_dict(), {}), theirs)
