"""Top-2 with a second expert that may be declined (GShard 2006.16668; Mesh-TF; ST-MoE)."""

from turnout.config.routers import Top2Router
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import SecondExpertPolicy


@build_router.register
def _(config: Top2Router, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=2,
        weights="renormalised",
        exploration=build_exploration(config.exploration),
        acceptance=SecondExpertPolicy(config.second, config.second_in_evaluation, config.threshold),
    )
