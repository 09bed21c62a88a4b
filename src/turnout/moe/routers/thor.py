"""THOR (Zuo et al. 2021, 2110.04260): experts drawn at random, in place of a router.

Axes: B batch, S sequence, D width.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.routers import ThorRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.fixed import fixed_routing, lots
from turnout.moe.routers.scores import best
from turnout.moe.stats import RouterStats


@final
class Thor(Router):
    """``k`` of E experts, all equally likely, by the token's noise; weight 1 / k.

    The paper draws an expert a layer for each pass, and at inference one for each token or
    sentence, at random again. Here each token draws, and evaluation is certain: a hash of layer
    and position takes the noise's place, so neither the rows' keys nor the other rows of the
    batch matter. The paper's consistency loss between two draws is not the router's.
    """

    def __init__(self, shape: RouterShape, choices: int) -> None:
        super().__init__(choices=choices)
        self.layer = shape.layer
        self.num_experts = shape.num_experts

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """There is nothing to fill."""

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        draws = lots(context, self.layer, self.training)
        scores = draws.uniform(Stream.FIXED_EXPERT, self.num_experts)
        even = torch.full_like(scores, -math.log(self.num_experts))
        return fixed_routing(best(scores, self.choices), even, context)


@build_router.register
def _(config: ThorRouter, shape: RouterShape) -> Router:
    return Thor(shape, config.k)
