"""A form of every router of the package that fits eight experts, for the kit and its table."""

from turnout.config.routers import (
    InputDropout,
    InputJitter,
    NoisyTopKRouter,
    NoTokenLeftBehindRouter,
    ReinforceRouter,
    RouterConfig,
    SampledSoftmax,
    SwitchRouter,
    Top2Router,
    TopKRouter,
)

EXAMPLES: dict[str, RouterConfig] = {
    "switch": SwitchRouter(),
    "switch, input jitter": SwitchRouter(InputJitter(0.1)),
    "switch, input dropout": SwitchRouter(InputDropout(0.1)),
    "switch, sampled": SwitchRouter(SampledSoftmax()),
    "top_k": TopKRouter(2),
    "top_k, raw, k = 4": TopKRouter(4, "raw"),
    "top_k, softmax of selected": TopKRouter(2, "softmax_of_selected"),
    "noisy_top_k": NoisyTopKRouter(2),
    "top2": Top2Router(threshold=0.6),
    "no_token_left_behind": NoTokenLeftBehindRouter(3),
    "reinforce": ReinforceRouter(),
}


def example(kind: str) -> RouterConfig | None:
    """The first form of that kind."""
    return next((router for router in EXAMPLES.values() if router.kind == kind), None)
