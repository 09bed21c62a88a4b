"""DeepSeek-V3 (2412.19437): latent attention, sigmoid routing with a bias, shared experts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import DecoderOnlyConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import Rotary
from turnout.config.routers import SigmoidTopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    COPIES,
    IGNORED,
    NETWORK,
    THEIRS,
    decoder_only,
    experts,
    layout_of,
    outer,
)
from turnout.convert.families.rotary import read_rotary, write_rotary
from turnout.convert.rules import Rule, renamed, rule

LATENTS = {
    "latent.weight": "kv_a_proj_with_mqa.weight",
    "latent_norm.weight": "kv_a_layernorm.weight",
    "key_value.weight": "kv_b_proj.weight",
    "out.weight": "o_proj.weight",
}
STRAIGHT = {"query.weight": "q_proj.weight"}
THROUGH = {
    "query_down.weight": "q_a_proj.weight",
    "query_norm.weight": "q_a_layernorm.weight",
    "query.weight": "q_b_proj.weight",
}
WIDTHS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


@final
class DeepseekV3Family(Family):
    """The layers that predict further tokens (multi-token prediction) are left out: a model that
    writes a token at a time does not use them."""

    model_type = "deepseek_v3"
    architectures = ("DeepseekV3ForCausalLM",)
    ignored = IGNORED
    copies = COPIES
    beyond = "predicts a token further on, for training and for speculation"

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("attention_bias", False, why="latent attention has no biases here")
        values.only("rms_norm_eps", 1e-6, why="its norms on latents keep 1e-6 whatever it is")
        values.only("scoring_func", "sigmoid", why="its routers take sigmoids")
        values.only("topk_method", "noaux_tc", why="its routers choose by score and bias")
        values.only("moe_layer_freq", 1, why="all layers after the first ones are sparse here")
        for name in ("num_mtp_layers", "num_nextn_predict_layers", "head_dim", "qk_head_dim"):
            values.value(name)
        for name in ("num_key_value_heads", "ep_size"):
            values.value(name)
        number = values.whole("num_attention_heads")
        rank = values.value("q_lora_rank")
        compressed, nope, rope, value = (values.whole(name) for name in WIDTHS)
        latent = LatentAttention(number, compressed, nope, rope, value, q_lora_rank=rank)
        d_ff = values.whole("intermediate_size")
        # Only what the two kinds of attention share is read there.
        plain = decoder_only(values, AttentionConfig(number, 2), d_ff, _moe(values))
        interleaved = values.flag("rope_interleave", True)
        positions = read_rotary(values, interleaved=interleaved)
        return replace(plain, attention=latent, positions=positions)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        moe = config.moe
        if not isinstance(config, DecoderOnlyConfig) or moe is None:
            return None
        attention, positions, router = config.attention, config.positions, moe.router
        known = isinstance(attention, LatentAttention) and isinstance(positions, Rotary)
        if not known or not isinstance(router, SigmoidTopKRouter) or router.bias_rate == 0:
            return None
        assert isinstance(attention, LatentAttention) and isinstance(positions, Rotary)
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_heads,
            "q_lora_rank": attention.q_lora_rank,
            **{name: getattr(attention, name) for name in WIDTHS},
            "intermediate_size": config.feed_forward.d_ff,
            "moe_intermediate_size": moe.expert_ffn(config.feed_forward).d_ff,
            "n_routed_experts": moe.num_experts,
            "n_shared_experts": moe.shared_experts,
            "num_experts_per_tok": router.k,
            "n_group": router.expert_groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "norm_topk_prob": router.weights == "renormalised",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "first_k_dense_replace": moe.placement.first,
            "moe_layer_freq": 1,
            "hidden_act": "silu",
            "max_position_embeddings": config.length,
            "rope_interleave": positions.interleaved,
            "rms_norm_eps": config.norm_epsilon,
            "attention_bias": False,
            "tie_word_embeddings": config.tied,
            **write_rotary(positions),
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        attention, moe = config.attention, f"{BLOCK}.feed_forward.moe"
        assert isinstance(attention, LatentAttention)
        queries = STRAIGHT if attention.q_lora_rank is None else THROUGH
        at = f"{BLOCK}.self_attention.attention.", f"{THEIRS}.self_attn."
        shared = f"{moe}.shared.", f"{THEIRS}.mlp.shared_experts."
        networks = {ours: f"{theirs}.weight" for ours, theirs in NETWORK.items()}
        return (
            *outer(config),
            *renamed(at, {**queries, **LATENTS}, "every"),
            rule(f"{moe}.router.weight", f"{THEIRS}.mlp.gate.weight", where="sparse"),
            rule(
                f"{moe}.router.balancer.bias",
                f"{THEIRS}.mlp.gate.e_score_correction_bias",
                where="sparse",
            ),
            *renamed(shared, networks, "sparse"),
            *experts(layout, f"{THEIRS}.mlp.experts", NETWORK),
        )

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


DEEPSEEK_V3 = DeepseekV3Family()


def _moe(values: Read) -> MoEConfig:
    first = values.value("first_k_dense_replace", 0)
    if type(first) is not int or first < 0:
        raise UserError(f"config.json: first_k_dense_replace = {first!r}: must be 0 or more")
    router = SigmoidTopKRouter(
        values.whole("num_experts_per_tok"),
        expert_groups=values.whole("n_group", 1),
        groups_kept=values.whole("topk_group", 1),
        scale=values.number("routed_scaling_factor", 1.0),
        weights="renormalised" if values.flag("norm_topk_prob", True) else "raw",
    )
    experts = values.value("n_routed_experts", values.value("num_local_experts"))
    return MoEConfig(
        values.whole("n_routed_experts", experts),
        router,
        expert=FeedForwardConfig(values.whole("moe_intermediate_size"), "swiglu"),
        shared_experts=values.whole("n_shared_experts", 1),
        init_scale=None,
        placement=Placement(step=1, first=first),
        train_capacity_factor=None,
    )
