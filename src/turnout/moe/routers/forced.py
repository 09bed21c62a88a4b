"""Routing with a load that is set beforehand, for measurements.

Axes: B batch, S sequence, D width, T tokens, E experts.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from turnout.config.routers import ForcedRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.fixed import certain, fixed_routing, lots
from turnout.moe.routers.scores import best
from turnout.moe.stats import RouterStats


@final
class RoundRobin(Router):
    """Choice c of the p-th real token of a row is expert ``(k p + c) mod E``, weight 1 / k: the
    loads of a row differ by one at most."""

    def __init__(self, shape: RouterShape, choices: int) -> None:
        super().__init__(choices=choices)
        self.num_experts = shape.num_experts

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """There is nothing to fill."""

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        turn = context.position.flatten().unsqueeze(1) * self.choices
        turn = turn + torch.arange(self.choices, device=turn.device)
        expert = torch.remainder(turn, self.num_experts)
        return fixed_routing(expert, certain(expert, self.num_experts), context)


@final
class DrawnLoad(Router):
    """``k`` experts drawn without replacement from fixed probabilities, weight 1 / k.

    Gumbel noise on their logarithms draws so; with k = 1 the loads follow the probabilities, with
    more they are evener. In evaluation a hash of layer and position takes the noise's place.
    """

    def __init__(self, shape: RouterShape, choices: int, exponent: float) -> None:
        super().__init__(choices=choices)
        self.layer = shape.layer
        self.exponent = exponent
        self.num_experts = shape.num_experts

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """There is nothing to fill."""

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        draws = lots(context, self.layer, self.training)
        gumbel = draws.gumbel(Stream.FIXED_EXPERT, self.num_experts)
        rank = torch.arange(1, self.num_experts + 1, device=gumbel.device)
        log_probability = F.log_softmax(-self.exponent * rank.log(), dim=0).expand_as(gumbel)
        expert = best(log_probability + gumbel, self.choices)
        return fixed_routing(expert, log_probability, context)


@build_router.register
def _(config: ForcedRouter, shape: RouterShape) -> Router:
    if config.load == "uniform":
        return RoundRobin(shape, config.k)
    return DrawnLoad(shape, config.k, config.exponent)
