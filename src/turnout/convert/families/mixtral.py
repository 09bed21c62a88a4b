"""Mixtral (2401.04088)."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import ModelConfig
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
    experts,
    fields,
    heads,
    layout_of,
)
from turnout.convert.rules import Rule

WORDS = {"w_gate": "w1", "w_in": "w3", "w_out": "w2"}
PREFIX = {"experts": f"{THEIRS}.block_sparse_moe", "fused": f"{THEIRS}.mlp"}


@final
class MixtralFamily(Family):
    """Every layer sparse; the weights of the chosen experts are a softmax over them."""

    model_type = "mixtral"
    architectures = ("MixtralForCausalLM",)
    ignored = IGNORED
    copies = COPIES

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("sliding_window", None, why="every token reads all before it here")
        values.value("router_jitter_noise")
        d_ff = values.whole("intermediate_size")
        moe = MoEConfig(
            values.whole("num_local_experts"),
            TopKRouter(values.whole("num_experts_per_tok", 2), "renormalised"),
            expert=FeedForwardConfig(d_ff, "swiglu"),
            init_scale=None,
            placement=Placement(step=1),
            train_capacity_factor=None,
        )
        return decoder_only(values, heads(values), d_ff, moe)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        found, moe = fields(config, "none"), config.moe
        if found is None or moe is None or moe.shared_experts or moe.placement != Placement(1):
            return None
        router = moe.router
        if not isinstance(router, TopKRouter) or router.weights == "raw":
            return None
        expert = moe.expert_ffn(config.feed_forward)
        return {
            **found,
            "intermediate_size": expert.d_ff,
            "num_local_experts": moe.num_experts,
            "num_experts_per_tok": router.k,
            "sliding_window": None,
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        prefix = PREFIX[layout]
        router = (f"{BLOCK}.feed_forward.moe.router.weight",), (f"{prefix}.gate.weight",)
        return (
            *backbone(config),
            Rule(*router, where="sparse"),
            *experts(layout, f"{prefix}.experts", WORDS),
        )

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


MIXTRAL = MixtralFamily()
