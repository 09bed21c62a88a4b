"""DeepSeek-V3 (2412.19437): latent attention, sigmoid routing with a bias, shared experts."""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.model import ModelConfig
from turnout.config.positions import Rotary
from turnout.config.routers import SigmoidTopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.latent import latent_fields, latent_rules, read_latent
from turnout.convert.families.llama import BLOCK, COPIES, IGNORED, THEIRS, layout_of
from turnout.convert.rules import Rule, rule


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
        values.only("scoring_func", "sigmoid", why="its routers take sigmoids")
        values.only("topk_method", "noaux_tc", why="its routers choose by score and bias")
        for name in ("num_mtp_layers", "num_nextn_predict_layers"):
            values.value(name)
        router = SigmoidTopKRouter(
            values.whole("num_experts_per_tok"),
            expert_groups=values.whole("n_group", 1),
            groups_kept=values.whole("topk_group", 1),
            scale=values.number("routed_scaling_factor", 1.0),
            weights="renormalised" if values.flag("norm_topk_prob", True) else "raw",
        )
        shared = values.whole("n_shared_experts", 1)
        interleaved = values.flag("rope_interleave", True)
        return read_latent(values, router, shared, interleaved=interleaved)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        router = None if config.moe is None else config.moe.router
        positions = config.positions
        if not isinstance(router, SigmoidTopKRouter) or not isinstance(positions, Rotary):
            return None
        if router.bias_rate == 0:
            return None
        own = {
            "num_experts_per_tok": router.k,
            "n_group": router.expert_groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "norm_topk_prob": router.weights == "renormalised",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rope_interleave": positions.interleaved,
        }
        return latent_fields(config, own)

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        bias = f"{BLOCK}.feed_forward.moe.router.balancer.bias"
        theirs = f"{THEIRS}.mlp.gate.e_score_correction_bias"
        return [*latent_rules(config, layout), rule(bias, theirs, where="sparse")]

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


DEEPSEEK_V3 = DeepseekV3Family()
