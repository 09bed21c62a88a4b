"""Noisy top-k gating (Shazeer et al. 2017, 1701.06538, section 2.1 and appendix A).

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K choices a token.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import NoisyTopKRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream, token_noise
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import choose, router_stats
from turnout.moe.stats import RouterStats

# tensor2tensor adds 1e-2 to the softplus, so that the load stays differentiable.
NOISE_FLOOR = 1e-2


@final
class NoisyTopK(Router):
    """``H = x W_g + N(0, 1) * (softplus(x W_noise) + 1e-2)``; softmax over the best K of H.

    Both weights start at zero. The load (equations 8 to 10) is the probability that an expert
    is among the best K under a fresh draw of its own noise.
    """

    def __init__(self, shape: RouterShape, choices: int) -> None:
        super().__init__(choices=choices)
        self.layer = shape.layer
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.d_model))
        self.noise_weight = nn.Parameter(torch.empty(shape.num_experts, shape.d_model))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.noise_weight)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        tokens, mask = x.flatten(0, 1), context.mask.flatten()
        clean = masked_product(tokens, mask, self.weight)
        logits, load = clean, None
        if self.training:
            scale = F.softplus(masked_product(tokens, mask, self.noise_weight)) + NOISE_FLOOR
            draw = token_noise(context, self.layer).normal(Stream.LOGITS, clean.shape[1])
            logits = clean + draw * scale
            load = smooth_load(clean, logits, scale, self.choices)

        choices = choose(logits, self.choices, context)
        expert = choices.expert
        weight = torch.softmax(logits.take_along_dim(expert, dim=1), dim=1)
        log_probability = F.log_softmax(logits, dim=1)
        assignment = Assignment.token_choice(
            expert, weight, log_probability.take_along_dim(expert, dim=1), choices.taken
        )
        stats = router_stats(logits, log_probability, assignment, context, load)
        return assignment, stats


def smooth_load(
    clean: Float[Tensor, "T E"],
    noisy: Float[Tensor, "T E"],
    scale: Float[Tensor, "T E"],
    k: int,
) -> Float[Tensor, "T E"]:
    """``P(x, i) = Phi((clean_i - kth_excluding(noisy, k, i)) / scale_i)`` (equation 9).

    The threshold of an expert among the best K is the (K+1)-th noisy logit, of any other the
    K-th; thresholds come from noisy logits, the numerator from clean ones. With K = E every
    probability is 1.
    """
    experts = clean.shape[1]
    if k == experts:
        return torch.ones_like(clean)
    ordered, index = torch.sort(noisy, dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(noisy, dtype=torch.bool).scatter(1, index[:, :k], True)
    threshold = torch.where(chosen, ordered[:, k : k + 1], ordered[:, k - 1 : k])
    probability: Tensor = torch.special.ndtr((clean - threshold) / scale)
    return probability


@build_router.register
def _(config: NoisyTopKRouter, shape: RouterShape) -> Router:
    return NoisyTopK(shape, config.k)
