"""No-token-left-behind (2101.03961, appendix B): the next best expert with room serves."""

from turnout.config.routers import NoTokenLeftBehindRouter
from turnout.moe.routers.base import Router, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@build_router.register
def _(
    config: NoTokenLeftBehindRouter,
    *,
    d_model: int,
    num_experts: int,
    layer: int,
    init_scale: float,
) -> Router:
    return SoftmaxRouter(
        d_model=d_model,
        num_experts=num_experts,
        layer=layer,
        choices=config.stages,
        weights="raw",
        exploration=build_exploration(config.exploration),
        acceptance=AcceptAll(),
        at_most=1,
        init_scale=init_scale,
    )
