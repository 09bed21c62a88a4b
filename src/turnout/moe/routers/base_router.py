"""BASE layers (Lewis et al. 2021, 2103.16716): equal loads by assignment, without a loss.

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K choices a token (1).
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import BaseRouter
from turnout.moe.assignment import Assignment
from turnout.moe.auction import balanced_assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import (
    Choices,
    choose,
    refuse_partial,
    router_stats,
)
from turnout.moe.stats import RouterStats

GAIN = 0.1  # of the orthogonal initialisation, as in fairseq's code


@final
class BalancedRouter(Router):
    """Affinities ``a = x W^T`` to the experts' centroids W; the weight is ``sigmoid(a_e)``.

    In training the tokens of a routing group are assigned so that the sum of affinities is
    largest among equal loads; in evaluation each token takes its best expert. The paper's layer
    puts out ``s f(x) + (1 - s) x`` with s the weight and an f that has a residual connection of
    its own, ``f(x) = x + F(x)``: that is ``x + s F(x)``, which is what the weight and our
    residual connection around the layer make of an expert F.

    The paper shuffles tokens among workers and assigns each worker's, so that a group is a random
    one; here it is the routing group, and a decision depends on nothing outside it.
    """

    def __init__(self, shape: RouterShape, kind: str) -> None:
        super().__init__(couples="group")
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.d_model))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        nn.init.orthogonal_(self.weight, GAIN, generator=generator)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        affinity = masked_product(x.flatten(0, 1), context.mask.flatten(), self.weight)
        choices = self._choices(affinity, context)
        log_probability = F.log_softmax(affinity, dim=1)
        assignment = Assignment.token_choice(
            choices.expert,
            torch.sigmoid(affinity.take_along_dim(choices.expert, dim=1)),
            log_probability.take_along_dim(choices.expert, dim=1),
            choices.taken,
        )
        return assignment, router_stats(affinity, log_probability, assignment, context)

    def _choices(self, affinity: Float[Tensor, "T E"], context: RoutingContext) -> Choices:
        if not self.training or context.chosen is not None:
            return choose(affinity, 1, context)
        refuse_partial(context, self.kind)
        expert = balanced_assignment(affinity, context).unsqueeze(1)
        return Choices(expert, context.mask.flatten().unsqueeze(1))


@build_router.register
def _(config: BaseRouter, shape: RouterShape) -> Router:
    return BalancedRouter(shape, config.kind)
