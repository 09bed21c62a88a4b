"""What DeepSeek-V2 and V3 have in common: latent attention, shared experts, dense first layers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import DecoderOnlyConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.positions import Rotary
from turnout.config.routers import RouterConfig
from turnout.convert.families.base import Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    NETWORK,
    THEIRS,
    decoder_only,
    experts,
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


def read_latent(
    values: Read, router: RouterConfig, shared: int, *, interleaved: bool
) -> DecoderOnlyConfig:
    """The model of a configuration whose router is read already.

    Raises:
        UserError: it asks for something that this version has no model for.
    """
    values.only("attention_bias", False, why="latent attention has no biases here")
    values.only("mlp_bias", False, why="the networks have no biases here")
    values.only("rms_norm_eps", 1e-6, why="its norms on latents keep 1e-6 whatever it is")
    values.only("moe_layer_freq", 1, why="all layers after the first ones are sparse here")
    for name in ("num_key_value_heads", "ep_size", "head_dim", "qk_head_dim"):
        values.value(name)
    number = values.whole("num_attention_heads")
    rank = None if values.value("q_lora_rank") is None else values.whole("q_lora_rank")
    compressed, nope, rope, value = (values.whole(name) for name in WIDTHS)
    latent = LatentAttention(number, compressed, nope, rope, value, q_lora_rank=rank)
    moe = MoEConfig(
        values.whole("n_routed_experts", values.value("num_local_experts")),
        router,
        expert=FeedForwardConfig(values.whole("moe_intermediate_size"), "swiglu"),
        shared_experts=shared,
        init_scale=None,
        placement=Placement(step=1, first=values.count("first_k_dense_replace")),
        train_capacity_factor=None,
    )
    # Only what the two kinds of attention share is read there.
    plain = decoder_only(values, AttentionConfig(number, 2), values.whole("intermediate_size"), moe)
    positions = read_rotary(values, interleaved=interleaved)
    return replace(plain, attention=latent, positions=positions)


def latent_fields(config: ModelConfig, router: Mapping[str, Any]) -> dict[str, Any] | None:
    """A configuration with these fields of its router; None where it cannot say what it is."""
    if not isinstance(config, DecoderOnlyConfig) or config.moe is None:
        return None
    attention, positions, moe = config.attention, config.positions, config.moe
    if not isinstance(attention, LatentAttention) or not isinstance(positions, Rotary):
        return None
    if config.tied and config.initialisation.kind == "fan_in":
        return None  # whose logits are scaled
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
        **router,
        "first_k_dense_replace": moe.placement.first,
        "moe_layer_freq": 1,
        "hidden_act": "silu",
        "max_position_embeddings": config.length,
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": False,
        "tie_word_embeddings": config.tied,
        **write_rotary(positions),
    }


def latent_rules(config: ModelConfig, layout: Layout) -> list[Rule]:
    """The table of tensors, with the router's matrix and nothing more of it."""
    attention, moe = config.attention, f"{BLOCK}.feed_forward.moe"
    assert isinstance(attention, LatentAttention) and config.moe is not None
    queries = STRAIGHT if attention.q_lora_rank is None else THROUGH
    at = f"{BLOCK}.self_attention.attention.", f"{THEIRS}.self_attn."
    shared = f"{moe}.shared.", f"{THEIRS}.mlp.shared_experts."
    networks = {ours: f"{theirs}.weight" for ours, theirs in NETWORK.items()}
    return [
        *outer(config),
        *renamed(at, {**queries, **LATENTS}, "every"),
        rule(f"{moe}.router.weight", f"{THEIRS}.mlp.gate.weight", where="sparse"),
        *(renamed(shared, networks, "sparse") if config.moe.shared_experts else ()),
        *experts(layout, f"{THEIRS}.mlp.experts", NETWORK),
    ]
