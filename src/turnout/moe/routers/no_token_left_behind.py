"""No-token-left-behind (2101.03961, appendix B): the next best expert with room serves."""

from turnout.config.routers import NoTokenLeftBehindRouter
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@build_router.register
def _(config: NoTokenLeftBehindRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.stages,
        weights="raw",
        exploration=build_exploration(config.exploration),
        acceptance=AcceptAll(),
        at_most=1,
    )
