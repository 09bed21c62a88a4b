"""Attention's features against the models of transformers that have them."""

from dataclasses import replace

from transformers import (
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.models.cases import MODERN
from tests.models.hugging_face import SMALL, assert_same_logits, random_model, with_weights
from turnout.config.attention import AttentionConfig

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
