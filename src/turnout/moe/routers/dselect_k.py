"""DSelect-k: a continuously differentiable choice of k experts (Hazimeh et al., 2106.03760).

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K selectors, M bits of a code.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.routers import DSelectKRouter
from turnout.config.routers.dselect_k import code_length
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import choose, token_sums
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_

# The smallest normal float32: what stands for 0 under a logarithm.
TINY = 2.0**-126


@final
class DSelectK(Router):
    """``w_i = sum over selectors of softmax(x A)_s * product over bits of S(x Z) or 1 - S(x Z)``.

    S is a smooth step: 0 below -width / 2, 1 above width / 2, a cubic between. A selector whose
    codes all lie outside holds one expert; the experts of weight above 0 serve the token, which
    are all of them while codes are undecided. Decided codes have no gradient.

    The published gate for inputs that choose for themselves, without its biases. Its entropy
    regularizer is a coefficient on the reported entropy, the sum over selectors of theirs; the
    probability is w, and z the squared log-sum-exp of the selectors' mixing logits.
    """

    def __init__(self, config: DSelectKRouter, shape: RouterShape) -> None:
        super().__init__(choices=shape.num_experts)
        self.selectors = config.k
        self.width = config.width
        self.layer = shape.layer
        self.init_scale = shape.init_scale
        self.bits = code_length(shape.num_experts)
        self.weight = nn.Parameter(torch.empty(config.k * self.bits, shape.d_model))
        self.mixing_weight = nn.Parameter(torch.empty(config.k, shape.d_model))

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)
        matrix_normal_(self.mixing_weight, generator, scale=self.init_scale, std=std)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        tokens, mask = x.flatten(0, 1), context.mask.flatten()
        codes = masked_product(tokens, mask, self.weight)
        codes = codes.view(len(tokens), self.selectors, self.bits)
        one, zero = smooth_steps(codes, self.width)
        mixing_logits = masked_product(tokens, mask, self.mixing_weight)
        mixing = torch.softmax(mixing_logits, dim=1).unsqueeze(2)
        weight = (mixing * selections(one, zero)).sum(1)

        choices = choose(weight.detach(), self.choices, context)
        chosen = weight.take_along_dim(choices.expert, dim=1)
        choices = choices.accepted(chosen > 0, context)
        assignment = Assignment.token_choice(
            choices.expert, chosen, chosen.clamp(min=TINY).log(), choices.taken
        )
        stats = token_sums(
            assignment,
            context,
            probability=weight,
            z=torch.logsumexp(mixing_logits, dim=1).square(),
            entropy=bit_entropy(one, zero).sum((1, 2)),
        )
        return assignment, stats


def smooth_steps(
    codes: Float[Tensor, "T K M"], width: float
) -> tuple[Float[Tensor, "T K M"], Float[Tensor, "T K M"]]:
    """S and 1 - S, with ``S(t) = u^2 (3 - 2 u)`` at ``u = t / width + 1 / 2`` cut to [0, 1].

    That is the paper's cubic; in this form neither is ever below 0 by a rounding.
    """
    u = (codes / width + 0.5).clamp(0.0, 1.0)
    v = 1 - u
    return u * u * (3 - 2 * u), v * v * (3 - 2 * v)


def selections(one: Float[Tensor, "T K M"], zero: Float[Tensor, "T K M"]) -> Float[Tensor, "T K E"]:
    """Each selector's weights of the experts; bit j of an expert's number is code j."""
    table = torch.ones_like(one[:, :, :1])
    for on, off in zip(one.unbind(2), zero.unbind(2), strict=True):
        table = torch.cat([table * off.unsqueeze(2), table * on.unsqueeze(2)], dim=2)
    return table


def bit_entropy(
    one: Float[Tensor, "T K M"], zero: Float[Tensor, "T K M"]
) -> Float[Tensor, "T K M"]:
    """Entropy of each bit in nats; a selector's is their sum, since its bits are independent."""
    open_ = (one > 0) & (zero > 0)
    p, q = torch.where(open_, one, 0.5), torch.where(open_, zero, 0.5)
    return torch.where(open_, -(p * p.log() + q * q.log()), 0.0)


@build_router.register
def _(config: DSelectKRouter, shape: RouterShape) -> Router:
    return DSelectK(config, shape)
