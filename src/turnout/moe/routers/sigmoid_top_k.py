"""Sigmoid top-k, balanced by a bias on the choice (DeepSeek-V3, 2412.19437, section 2.1.2).

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K choices.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import SigmoidTopKRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.balancer import LoadBias
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.expert_groups import BestGroups
from turnout.moe.routers.masked_product import adapted, masked_product
from turnout.moe.routers.scores import choose, router_stats
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import MatrixAdapter


@final
class SigmoidTopK(Router):
    """``s = sigmoid(x W)``; the best K of ``s + b``; weights ``scale * s / sum of the chosen s``.

    b follows the loads and has no part in the weights. Of several expert groups only the best may
    be chosen from; a group's score is the sum of its two largest ``s + b``. The probability that
    the losses see is ``s / sum of all s`` (equations 17 to 20). Sums of s are taken in logarithms,
    so that logits at which every s is 0 in float32 still have weights and gradients.
    """

    balancer: LoadBias | None

    def __init__(self, config: SigmoidTopKRouter, shape: RouterShape) -> None:
        bias = LoadBias(shape.num_experts, config.bias_rate) if config.bias_rate > 0 else None
        super().__init__(choices=config.k, balancer=bias)
        self.config = config
        self.groups = BestGroups(config.expert_groups, config.groups_kept, counted=2)
        self.layer = shape.layer
        self.init_scale = shape.init_scale
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.d_model))
        self.weight_lora: MatrixAdapter | None = None

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)
        if self.balancer is not None:
            self.balancer.reset()

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        tokens, mask = x.flatten(0, 1), context.mask.flatten()
        logits = masked_product(tokens, mask, self.weight)
        logits = adapted(logits, tokens, mask, self.weight_lora)
        scores = torch.sigmoid(logits.detach())
        if self.balancer is not None:
            scores = scores + self.balancer.bias
        choices = choose(self.groups.limited(scores), self.choices, context)

        log_score = F.logsigmoid(logits)
        chosen = log_score.take_along_dim(choices.expert, dim=1)
        weight = chosen.exp() if self.config.weights == "raw" else torch.softmax(chosen, dim=1)
        log_probability = F.log_softmax(log_score, dim=1)
        assignment = Assignment.token_choice(
            choices.expert,
            self.config.scale * weight,
            log_probability.take_along_dim(choices.expert, dim=1),
            choices.taken,
        )
        return assignment, router_stats(logits, log_probability, assignment, context)


@build_router.register
def _(config: SigmoidTopKRouter, shape: RouterShape) -> Router:
    return SigmoidTopK(config, shape)
