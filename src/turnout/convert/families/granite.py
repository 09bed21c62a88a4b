"""Granite-MoE: Mixtral's layers with constants on embeddings, residuals and logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, ModelConfig, Multipliers
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    COPIES,
    IGNORED,
    THEIRS,
    backbone,
    decoder_only,
    fields,
    fused,
    heads,
)
from turnout.convert.rules import Rule, rule

SPARSE = f"{THEIRS}.block_sparse_moe"
LOADED = {
    r"input_linear\.weight$": "experts.gate_up_proj",
    r"output_linear\.weight$": "experts.down_proj",
    r"router\.layer\.weight$": "router.weight",
}


@final
class GraniteMoeFamily(Family):
    """Its experts have one layout: all of a layer in two tensors."""

    model_type = "granitemoe"
    architectures = ("GraniteMoeForCausalLM",)
    ignored = IGNORED
    copies = COPIES
    loaded = LOADED

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("attention_bias", False, why="Granite-MoE is published without")
        d_ff = values.whole("intermediate_size")
        moe = MoEConfig(
            values.whole("num_local_experts", 8),
            TopKRouter(values.whole("num_experts_per_tok", 2), "softmax_of_selected"),
            expert=FeedForwardConfig(d_ff, "swiglu"),
            init_scale=None,
            placement=Placement(step=1),
            train_capacity_factor=None,
        )
        multipliers = Multipliers(
            embedding=values.number("embedding_multiplier", 1.0),
            residual=values.number("residual_multiplier", 1.0),
            attention=values.number("attention_multiplier", 1.0),
            logits_divisor=values.number("logits_scaling", 1.0),
        )
        return replace(decoder_only(values, heads(values), d_ff, moe), multipliers=multipliers)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        found, moe = fields(config, "none"), config.moe
        if found is None or moe is None or moe.shared_experts or moe.placement != Placement(1):
            return None
        router = moe.router
        if not isinstance(router, TopKRouter) or not isinstance(config, DecoderOnlyConfig):
            return None
        own = config.multipliers
        by_width = found["head_dim"] ** -0.5
        return {
            **found,
            "intermediate_size": moe.expert_ffn(config.feed_forward).d_ff,
            "num_local_experts": moe.num_experts,
            "num_experts_per_tok": router.k,
            "attention_bias": False,
            "embedding_multiplier": own.embedding,
            "residual_multiplier": own.residual,
            "attention_multiplier": by_width if own.attention is None else own.attention,
            "logits_scaling": own.logits_divisor,
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        router = f"{BLOCK}.feed_forward.moe.router.weight"
        return (
            *backbone(config),
            rule(router, f"{SPARSE}.router.layer.weight", where="sparse"),
            *fused(f"{SPARSE}.input_linear.weight", f"{SPARSE}.output_linear.weight"),
        )

    def layout(self, names: frozenset[str]) -> Layout:
        return "fused"


GRANITE_MOE = GraniteMoeFamily()
