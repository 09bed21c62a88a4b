"""Routing learned by reward (Clark et al. 2022, 2202.01169, RL-R)."""

from turnout.config.routers import ReinforceRouter, SampledSoftmax
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@build_router.register
def _(config: ReinforceRouter, shape: RouterShape) -> Router:
    """Samples in training, takes the best in evaluation; the policy gradient is the objective's."""
    return SoftmaxRouter(
        shape,
        choices=1,
        weights="one",
        exploration=build_exploration(SampledSoftmax()),
        acceptance=AcceptAll(),
    )
