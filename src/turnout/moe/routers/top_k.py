"""Top-k with raw, renormalised or softmax-of-selected weights (V-MoE, GShard, Mixtral)."""

from turnout.config.routers import TopKRouter
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@build_router.register
def _(config: TopKRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.k,
        weights=config.weights,
        exploration=build_exploration(config.exploration),
        acceptance=AcceptAll(),
        bias=config.bias,
    )
