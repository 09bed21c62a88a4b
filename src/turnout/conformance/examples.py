"""A form of every router of the package that fits eight experts, for the kit and its table."""

import math
from functools import singledispatch

from turnout.config.routers import (
    BaseRouter,
    DenseToSparseRouter,
    DSelectKRouter,
    ExpertChoiceRouter,
    ForcedRouter,
    HashRouter,
    HierarchicalRouter,
    InputDropout,
    InputJitter,
    LabelRouter,
    MultiGateRouter,
    NoisyTopKRouter,
    NoTokenLeftBehindRouter,
    NullExpertsRouter,
    PrototypesRouter,
    ReinforceRouter,
    RouterConfig,
    SampledSoftmax,
    SentenceRouter,
    SigmoidTopKRouter,
    SinkhornRouter,
    SwitchRouter,
    TaskRouter,
    ThorRouter,
    Top2Router,
    TopKRouter,
    TopPRouter,
)

EXAMPLES: dict[str, RouterConfig] = {
    "switch": SwitchRouter(),
    "switch, input jitter": SwitchRouter(InputJitter(0.1)),
    "switch, input dropout": SwitchRouter(InputDropout(0.1)),
    "switch, sampled": SwitchRouter(SampledSoftmax()),
    "top_k": TopKRouter(2),
    "top_k, raw, k = 4": TopKRouter(4, "raw"),
    "top_k, softmax of selected": TopKRouter(2, "softmax_of_selected"),
    "top_k, expert groups": TopKRouter(2, "raw", expert_groups=4, groups_kept=2, scale=2.5),
    "noisy_top_k": NoisyTopKRouter(2),
    "top2": Top2Router(threshold=0.6),
    "no_token_left_behind": NoTokenLeftBehindRouter(3),
    "reinforce": ReinforceRouter(),
    "sigmoid_top_k": SigmoidTopKRouter(2),
    "sigmoid_top_k, expert groups": SigmoidTopKRouter(2, expert_groups=4, groups_kept=2, scale=2.5),
    "prototypes": PrototypesRouter(2),
    "top_p": TopPRouter(0.6, 3),
    "null_experts": NullExpertsRouter(2, nulls=2, budget=1.5),
    "dense_to_sparse": DenseToSparseRouter(),
    "dselect_k": DSelectKRouter(2),
    "hash": HashRouter(),
    "hash, bigram": HashRouter("bigram", buckets=32),
    "label": LabelRouter(2),
    "task": TaskRouter(2, k=2),
    "sentence": SentenceRouter(2),
    "multi_gate": MultiGateRouter(2, k=2),
    "thor": ThorRouter(),
    "forced, uniform": ForcedRouter(k=2),
    "forced, zipf": ForcedRouter("zipf", k=2),
    "hierarchical": HierarchicalRouter(2),
    "expert_choice": ExpertChoiceRouter(2),
    "expert_choice, capped": ExpertChoiceRouter(1, cap=2),
    "base": BaseRouter(),
    "sinkhorn": SinkhornRouter(),
}


@singledispatch
def zero_z(router: RouterConfig, num_experts: int) -> float:
    """The router z-loss of zero logits: (ln n)^2 of every softmax over n of them, here one."""
    return math.log(num_experts) ** 2


@zero_z.register
def _(router: PrototypesRouter, num_experts: int) -> float:
    return router.k * math.log(num_experts / router.k) ** 2


@zero_z.register
def _(router: NullExpertsRouter, num_experts: int) -> float:
    return math.log(num_experts + router.nulls) ** 2


@zero_z.register
def _(router: DSelectKRouter, num_experts: int) -> float:
    return math.log(router.k) ** 2  # of the mixing of the selectors


@zero_z.register
def _(router: HierarchicalRouter, num_experts: int) -> float:
    return math.log(router.groups) ** 2 + math.log(num_experts / router.groups) ** 2


@zero_z.register(ForcedRouter)
@zero_z.register(ThorRouter)
def _(router: RouterConfig, num_experts: int) -> float:
    return 0.0  # they have no logits


def example(kind: str) -> RouterConfig | None:
    """The first form of that kind."""
    return next((router for router in EXAMPLES.values() if router.kind == kind), None)
