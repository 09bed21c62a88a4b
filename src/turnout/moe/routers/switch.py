"""Switch top-1 (2101.03961, equations 1 and 2)."""

from turnout.config.routers import SwitchRouter
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@build_router.register
def _(config: SwitchRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=1,
        weights="raw",
        exploration=build_exploration(config.exploration),
        acceptance=AcceptAll(),
        bias=config.bias,
    )
