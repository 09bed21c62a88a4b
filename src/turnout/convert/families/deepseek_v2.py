"""DeepSeek-V2 (2405.04434): latent attention, softmax routing within the best groups of experts,
shared experts.

``norm_topk_prob`` is read as the classes that the checkpoints bring read it: it takes the place of
``routed_scaling_factor``. transformers has no normalised form and scales always. No published
checkpoint sets it.
"""

from collections.abc import Sequence
from typing import Any, final

from turnout.config.model import ModelConfig
from turnout.config.routers import TopKRouter
from turnout.convert.families.base import Family, Layout, Read
from turnout.convert.families.latent import latent_fields, latent_rules, read_latent
from turnout.convert.families.llama import COPIES, IGNORED, layout_of
from turnout.convert.rules import Rule

ANY, LIMITED = "greedy", "group_limited_greedy"
NORMALISED = (
    "norm_topk_prob: weights are shares of the chosen experts' sum, without routed_scaling_factor, "
    "as in the published classes; transformers ignores the field"
)


@final
class DeepseekV2Family(Family):
    """Written where the weights are probabilities, which all readers of the family agree on."""

    model_type = "deepseek_v2"
    architectures = ("DeepseekV2ForCausalLM",)
    ignored = IGNORED
    copies = COPIES

    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        values.only("scoring_func", "softmax", why="its routers take a softmax")
        shared = values.count("n_shared_experts")
        return read_latent(values, _router(values), shared, interleaved=True)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        router = None if config.moe is None else config.moe.router
        if not isinstance(router, TopKRouter):
            return None
        own = {
            "num_experts_per_tok": router.k,
            "n_group": router.expert_groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
            "topk_method": ANY if router.expert_groups == 1 else LIMITED,
        }
        return latent_fields(config, own)

    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        return latent_rules(config, layout)

    def layout(self, names: frozenset[str]) -> Layout:
        return layout_of(names)


DEEPSEEK_V2 = DeepseekV2Family()


def _router(values: Read) -> TopKRouter:
    k = values.whole("num_experts_per_tok")
    values.only("topk_method", ANY, LIMITED, why="its routers choose by probability alone")
    limited = values.value("topk_method", ANY) == LIMITED
    # Without a limit both are there as well, and without effect.
    own = [values.whole(n) if limited else values.value(n) for n in ("n_group", "topk_group")]
    groups, kept = own if limited else (1, 1)
    scale = values.number("routed_scaling_factor", 1.0)
    if values.flag("norm_topk_prob") and k > 1:
        values.remark(NORMALISED)
        return TopKRouter(k, "renormalised", expert_groups=groups, groups_kept=kept)
    return TopKRouter(k, "raw", expert_groups=groups, groups_kept=kept, scale=scale)
