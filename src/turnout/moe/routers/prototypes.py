"""Expert prototyping: k top-1 routings side by side (Yang et al., M6-T, 2105.15082).

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K prototypes, J experts in each.
"""

import math
from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import PrototypesRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import named, token_sums
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_


@final
class Prototypes(Router):
    """``y = sum over the prototypes of p_i E_i(x)``, i the best of each by its own softmax p.

    Experts stand in prototypes in order. What is reported is that of K Switch routers together:
    the probability is p / K, which sums to 1 over the experts; every choice is a first choice, so
    that the Switch form of the balance loss is the sum of the prototypes' own; and the squared
    log-sum-exps of the prototypes are added. With one prototype this is the Switch router.
    """

    def __init__(self, shape: RouterShape, prototypes: int) -> None:
        super().__init__(choices=prototypes)
        self.layer = shape.layer
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
        size = logits.shape[1] // self.choices
        table = logits.view(len(logits), self.choices, size)  # [T, K, J]
        first = size * torch.arange(self.choices, device=x.device)
        choices = named(table.argmax(2) + first, context)

        within = F.log_softmax(table, dim=2).flatten(1)
        chosen = within.take_along_dim(choices.expert, dim=1)
        share = math.log(self.choices)
        log_probability = within - share
        assignment = Assignment.token_choice(
            choices.expert, chosen.exp(), chosen - share, choices.taken
        )
        assignment = replace(assignment, choice=torch.zeros_like(assignment.choice))
        probability = log_probability.exp()
        stats = token_sums(
            assignment,
            context,
            probability=probability,
            z=torch.logsumexp(table, dim=2).square().sum(1),
            entropy=-(probability * log_probability).sum(1),
        )
        return assignment, stats


@build_router.register
def _(config: PrototypesRouter, shape: RouterShape) -> Router:
    return Prototypes(shape, config.k)
