"""Sinkhorn routing, the S-BASE of Clark et al. 2022 (2202.01169): balanced by optimal transport.

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K choices a token (1).
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import SinkhornRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import (
    choose,
    refuse_partial,
    router_stats,
)
from turnout.moe.stats import RouterStats
from turnout.moe.transport import sinkhorn
from turnout.nn.init import matrix_normal_


@final
class TransportRouter(Router):
    """``p = softmax(W x)``; in training the best expert of a token is that of ``Q``, which is
    ``exp(W x / temperature)`` scaled to equal sums over the routing group; in evaluation of p.

    The combine weight is p of the expert. Loads are near equal, not equal: sums of Q are, and
    counts of its row maxima need not be. Temperature, tolerance and the form of the weight are
    ours where the paper's text leaves them open.
    """

    def __init__(self, shape: RouterShape, config: SinkhornRouter) -> None:
        super().__init__(couples="group")
        self.config = config
        self.init_scale = shape.init_scale
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.d_model))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        logits = masked_product(x.flatten(0, 1), context.mask.flatten(), self.weight)
        choices = choose(self._scores(logits, context), 1, context)
        log_probability = F.log_softmax(logits, dim=1)
        chosen = log_probability.take_along_dim(choices.expert, dim=1)
        assignment = Assignment.token_choice(choices.expert, chosen.exp(), chosen, choices.taken)
        return assignment, router_stats(logits, log_probability, assignment, context)

    def _scores(
        self, logits: Float[Tensor, "T E"], context: RoutingContext
    ) -> Float[Tensor, "T E"]:
        if not self.training or context.chosen is not None:
            return logits
        refuse_partial(context, self.config.kind)
        return sinkhorn(
            logits,
            context,
            temperature=self.config.temperature,
            sweeps=self.config.sweeps,
            tolerance=self.config.tolerance,
        )


@build_router.register
def _(config: SinkhornRouter, shape: RouterShape) -> Router:
    return TransportRouter(shape, config)
