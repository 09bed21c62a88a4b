"""Top-p: experts until their probabilities add up to p (Huang et al., 2403.07652).

Theirs are the rule and the raw probabilities as weights; the bound on the number of experts, which
keeps shapes static, and renormalised weights are ours. The entropy that they add to the loss, so
that probabilities do not spread to buy more experts, is among the sums that every router reports.
"""

from turnout.config.routers import TopPRouter
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.exploration import build_exploration
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import UpToSum


@build_router.register
def _(config: TopPRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.most,
        weights="raw" if config.weights == "raw" else "renormalised_over_taken",
        exploration=build_exploration(config.exploration),
        acceptance=UpToSum(config.p),
    )
