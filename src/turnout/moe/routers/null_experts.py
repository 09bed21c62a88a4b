"""Top-k among true and null experts, at a budget (AdaMoE, 2406.13233).

Axes: B batch, S sequence, D width, T tokens = B * S, E true experts, Z nulls, A = E + Z, K choices.
"""

from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from turnout.config.routers import NullExpertsRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.balancer import Budget
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import choose, token_sums
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_


@final
class NullExperts(Router):
    """``p = softmax(x W)`` over E true and Z null experts; the best K, of which nulls compute none.

    The nulls are rows of W like the experts, as in AdaMoE: each learns tokens of its own to spare.
    AdaMoE holds their use by a loss; here a bias on their scores, for the choice alone, moves
    towards the budget after each step. Weights are p itself.

    A choice that falls on a null is not live, and the first choice of a token is its first true
    expert. The probabilities that the losses see are those of a softmax over the true experts
    alone: they sum to 1, and a balance loss cannot be lowered by sending tokens to the nulls.
    """

    balancer: Budget

    def __init__(self, config: NullExpertsRouter, shape: RouterShape) -> None:
        budget = Budget(config.budget, config.rate)
        super().__init__(choices=config.k, balancer=budget)
        self.layer = shape.layer
        self.init_scale = shape.init_scale
        self.num_experts = shape.num_experts
        self.weight = nn.Parameter(torch.empty(shape.num_experts + config.nulls, shape.d_model))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)
        self.balancer.reset()

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        logits = masked_product(x.flatten(0, 1), context.mask.flatten(), self.weight)
        true, null = logits[:, : self.num_experts], logits[:, self.num_experts :]
        scores = torch.cat([true, null + self.balancer.bias], dim=1).detach()
        choices = choose(scores, self.choices, context)
        taken = choices.taken & (choices.expert < self.num_experts)

        chosen = F.log_softmax(logits, dim=1).take_along_dim(choices.expert, dim=1)
        assignment = Assignment.token_choice(
            choices.expert.clamp(max=self.num_experts - 1), chosen.exp(), chosen, taken
        )
        assignment = replace(assignment, choice=turn(taken).flatten())
        log_probability = F.log_softmax(true, dim=1)
        probability = log_probability.exp()
        stats = token_sums(
            assignment,
            context,
            probability=probability,
            z=torch.logsumexp(logits, dim=1).square(),
            entropy=-(probability * log_probability).sum(1),
        )
        return assignment, stats


def turn(taken: Bool[Tensor, "T K"]) -> Int[Tensor, "T K"]:
    """How many of a token's taken choices stand before each."""
    count = taken.long()
    return count.cumsum(1) - count


@build_router.register
def _(config: NullExpertsRouter, shape: RouterShape) -> Router:
    return NullExperts(config, shape)
