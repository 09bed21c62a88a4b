"""DeepSeekMoE (2401.06066), whose published checkpoints bring their own classes; those are not
imported."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import CombineWeights, TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.llama import (
    BLOCK,
    COPIES,
    IGNORED,
    NETWORK,
    THEIRS,
    decoder_only,
    fields,
    heads,
    layout_of,
)
from turnout.convert.families.qwen import qwen_rules
from turnout.convert.rules import Rule, rule


@final
class DeepseekMoeFamily(Family):
    """Fine-grained experts beside shared ones; the first layers dense."""

    model_type = "deepseek"
    architectures = ("DeepseekForCausalLM",)
    ignored = IGNORED
    copies = COPIES
    has_class = False

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("attention_bias", False, why="DeepSeekMoE has no biases")
        values.only("scoring_func", "softmax", why="its routers take a softmax")
        values.only("moe_layer_freq", 1, why="all layers after the first ones are sparse here")
        weights: CombineWeights = "renormalised" if values.flag("norm_topk_prob") else "raw"
        moe = MoEConfig(
            values.whole("n_routed_experts"),
            TopKRouter(values.whole("num_experts_per_tok"), weights),
            expert=FeedForwardConfig(values.whole("moe_intermediate_size"), "swiglu"),
            shared_experts=values.count("n_shared_experts"),
            init_scale=None,
            placement=Placement(step=1, first=values.count("first_k_dense_replace")),
            train_capacity_factor=None,
        )
        return decoder_only(values, heads(values), values.whole("intermediate_size"), moe)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        found, moe = fields(config, "none"), config.moe
        if found is None or moe is None or moe.shared_gate or moe.placement.step != 1:
            return None
        router = moe.router
        if not isinstance(router, TopKRouter):
            return None
        return {
            **found,
            "intermediate_size": config.feed_forward.d_ff,
            "moe_intermediate_size": moe.expert_ffn(config.feed_forward).d_ff,
            "n_routed_experts": moe.num_experts,
            "n_shared_experts": moe.shared_experts or None,
            "num_experts_per_tok": router.k,
            "norm_topk_prob": router.weights != "raw",
            "first_k_dense_replace": moe.placement.first,
            "moe_layer_freq": 1,
            "scoring_func": "softmax",
            "attention_bias": False,
        }

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        found = qwen_rules(config, layout)
        if config.moe is not None and config.moe.shared_experts:
            ours, theirs = f"{BLOCK}.feed_forward.moe.shared", f"{THEIRS}.mlp.shared_experts"
            found += [
                rule(f"{ours}.{a}", f"{theirs}.{b}.weight", where="sparse")
                for a, b in NETWORK.items()
            ]
        return found

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


DEEPSEEK_MOE = DeepseekMoeFamily()
