"""From all experts to few, by a falling temperature (EvoMoE's DTS gate, 2112.14397).

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, and as many choices a token.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import DenseToSparseRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream, token_noise
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import choose, router_stats
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_


@final
class DenseToSparse(Router):
    """``p = softmax((x W + g) / t)``; experts with p above a threshold, the best always.

    g is Gumbel noise, in training alone. The published gate lowers the temperature t from above 1
    towards 0; that it does so evenly in its logarithm over a share of the run, and that evaluation
    always takes the last temperature and the same rule, is ours. Weights are p. An expert is taken
    if its logit is within ``t * ln(1 / threshold)`` of the best one's, or somewhat further where
    many are close.
    """

    def __init__(self, config: DenseToSparseRouter, shape: RouterShape) -> None:
        super().__init__(choices=shape.num_experts)
        self.config = config
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
        scaled = logits / self.config.end
        if self.training:
            scaled = self._noisy(logits, context) / temperature(self.config, context.progress)
        choices = choose(scaled, self.choices, context)

        log_probability = F.log_softmax(scaled, dim=1)
        chosen = log_probability.take_along_dim(choices.expert, dim=1)
        weight = chosen.exp()
        first = torch.arange(self.choices, device=x.device) == 0
        choices = choices.accepted((weight > self.config.threshold) | first, context)
        assignment = Assignment.token_choice(choices.expert, weight, chosen, choices.taken)
        return assignment, router_stats(logits, log_probability, assignment, context)

    def _noisy(self, logits: Float[Tensor, "T E"], context: RoutingContext) -> Float[Tensor, "T E"]:
        if not self.config.gumbel:
            return logits
        return logits + token_noise(context, self.layer).gumbel(Stream.LOGITS, logits.shape[1])


def temperature(config: DenseToSparseRouter, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The temperature after that share of the run."""
    share = (progress / config.anneal).clamp(0.0, 1.0)
    first, last = math.log(config.start), math.log(config.end)
    return torch.exp(first + share * (last - first))


@build_router.register
def _(config: DenseToSparseRouter, shape: RouterShape) -> Router:
    return DenseToSparse(config, shape)
