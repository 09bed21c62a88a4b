"""Hierarchical gating (Shazeer et al. 2017, 1701.06538, appendix B): two levels of noisy top-k.

Axes: B batch, S sequence, D width, T tokens = B * S, G routing groups, A groups of experts, J
experts of each, E = A * J, K choices a token.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from turnout.config.routers import HierarchicalRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream, TokenNoise, token_noise
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.noisy_top_k import NOISE_FLOOR, smooth_load
from turnout.moe.routers.scores import (
    Choices,
    best,
    named,
    router_stats,
)
from turnout.moe.stats import RouterStats, group_sum
from turnout.nn.init import matrix_normal_


@dataclass(frozen=True)
class LevelLogits:
    """Clean logits, those that choose, and the scale of the noise between them, if any."""

    clean: Float[Tensor, "T O"]
    noisy: Float[Tensor, "T O"]
    scale: Float[Tensor, "T O"] | None


@final
class Level(nn.Module):
    """One level's logits: ``x W``, and in training ``+ n * (softplus(x W_noise) + 1e-2)``.

    With noise both weights start at zero, as in the paper: noise alone breaks the ties. Without,
    zero logits would tie for ever, so the weight starts as other routers' do.
    """

    def __init__(self, shape: RouterShape, outputs: int, noisy: bool, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.init_scale = shape.init_scale
        self.weight = nn.Parameter(torch.empty(outputs, shape.d_model))
        self.noise_weight = nn.Parameter(torch.empty(outputs, shape.d_model)) if noisy else None

    def init_weights(self, generator: torch.Generator | None, std: float | None) -> None:
        if self.noise_weight is None:
            matrix_normal_(self.weight, generator, scale=self.init_scale, std=std)
            return
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.noise_weight)

    def forward(
        self, tokens: Float[Tensor, "T D"], mask: Bool[Tensor, " T"], noise: TokenNoise | None
    ) -> LevelLogits:
        clean = masked_product(tokens, mask, self.weight)
        if noise is None or self.noise_weight is None:
            return LevelLogits(clean, clean, None)
        scale = F.softplus(masked_product(tokens, mask, self.noise_weight)) + NOISE_FLOOR
        draw = noise.normal(self.stream, clean.shape[1])
        return LevelLogits(clean, clean + draw * scale, scale)


@final
class Hierarchical(Router):
    """``y = sum_i sum_j G_i G_ij E_ij``: the best ``k_primary`` groups of experts, and the best
    ``k_secondary`` experts of each.

    G is the softmax over the kept logits of its level. The importance of an expert is the sum of
    ``G_i G_ij``; its probability is the product of both levels' whole softmaxes, so that those of
    a token add up to 1. The load is the paper's ``Load_H`` (see ``hierarchical_load``). Ours: what
    the router z-loss squares is the log-sum-exp of the primary logits, and that of the secondary
    ones of each group of experts, averaged. All secondary logits are computed, as one product.
    """

    def __init__(self, config: HierarchicalRouter, shape: RouterShape) -> None:
        super().__init__(choices=config.active)
        self.layer = shape.layer
        self.inside = shape.num_experts // config.groups
        self.kept = config.k_primary, config.k_secondary
        self.primary = Level(shape, config.groups, config.noisy, Stream.LOGITS)
        self.secondary = Level(shape, shape.num_experts, config.noisy, Stream.SECONDARY_LOGITS)

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        self.primary.init_weights(generator, std)
        self.secondary.init_weights(generator, std)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        tokens, mask = x.flatten(0, 1), context.mask.flatten()
        noise = token_noise(context, self.layer) if self.training else None
        first, second = self.primary(tokens, mask, noise), self.secondary(tokens, mask, noise)
        outer, inner = first.noisy, second.noisy.unflatten(1, (-1, self.inside))

        choices = named(nested_best(outer, inner, *self.kept), context)
        log_probability = F.log_softmax(outer, 1).unsqueeze(2) + F.log_softmax(inner, 2)
        log_probability = log_probability.flatten(1)
        assignment = Assignment.token_choice(
            choices.expert,
            nested_weights(outer, inner, choices),
            log_probability.take_along_dim(choices.expert, dim=1),
            choices.taken,
        )
        stats = router_stats(log_probability, log_probability, assignment, context)
        z = outer.logsumexp(1).square() + inner.logsumexp(2).square().mean(1)
        z = torch.where(context.mask.flatten(), z, 0.0)
        stats = replace(stats, z=group_sum(z, context.group.flatten(), context.num_groups))
        if first.scale is not None:
            load = hierarchical_load(first, second, self.kept, choices, context)
            stats = replace(stats, load=load)
        return assignment, stats


def nested_best(
    outer: Float[Tensor, "T A"], inner: Float[Tensor, "T A J"], k_primary: int, k_secondary: int
) -> Int[Tensor, "T K"]:
    """The chosen experts, best group first, and within it best expert first."""
    group = best(outer, k_primary).unsqueeze(2)
    within = torch.sort(inner.take_along_dim(group, dim=1), dim=2, descending=True, stable=True)
    return (group * inner.shape[2] + within.indices[:, :, :k_secondary]).flatten(1)


def nested_weights(
    outer: Float[Tensor, "T A"], inner: Float[Tensor, "T A J"], choices: Choices
) -> Float[Tensor, "T K"]:
    """``G_i G_ij`` of the choices: a softmax over the groups of experts that hold one, times a
    softmax over the chosen experts of that group. They add up to 1."""
    taken = torch.zeros_like(inner.flatten(1), dtype=torch.int64)
    taken = taken.scatter_add(1, choices.expert, choices.taken.long())
    chosen = taken.view_as(inner) > 0
    group = chosen.any(2)
    outer_weight = masked_softmax(outer, group)
    inner_weight = masked_softmax(inner, chosen)
    weight = (outer_weight.unsqueeze(2) * inner_weight).flatten(1)
    return weight.take_along_dim(choices.expert, dim=1)


def masked_softmax(
    logits: Float[Tensor, "*N O"], among: Bool[Tensor, "*N O"]
) -> Float[Tensor, "*N O"]:
    """Softmax over the entries that are ``among``; over all of them where none is, so that no row
    is NaN."""
    among = among | ~among.any(-1, keepdim=True)
    return torch.softmax(torch.where(among, logits, -torch.inf), dim=-1)


def hierarchical_load(
    first: LevelLogits,
    second: LevelLogits,
    kept: tuple[int, int],
    choices: Choices,
    context: RoutingContext,
) -> Float[Tensor, "G E"]:
    """``Load_H[i, j] = Load_prim_i * Load_i(X_i)_j / |X_i|``, zero where ``X_i`` is empty.

    X_i are the tokens that chose group i of experts, and every load a sum of smooth loads. Each
    routing group has its own X_i, so that the sums of groups, micro-batches and ranks add; the
    paper's X is its batch.
    """
    assert first.scale is not None and second.scale is not None
    tokens, groups = first.clean.shape
    inside = second.clean.shape[1] // groups
    outer = smooth_load(first.clean, first.noisy, first.scale, kept[0])
    levels = (second.clean, second.noisy, second.scale)
    clean, noisy, scale = (part.reshape(-1, inside) for part in levels)
    inner = smooth_load(clean, noisy, scale, kept[1]).view(tokens, groups, inside)

    member = torch.zeros_like(outer, dtype=torch.int64)
    member = member.scatter_add(1, choices.expert // inside, choices.taken.long()) > 0

    def summed(values: Tensor) -> Tensor:
        return group_sum(values, context.group.flatten(), context.num_groups)

    mask = context.mask.flatten().unsqueeze(1)
    primary = summed(torch.where(mask, outer, 0.0)).unsqueeze(2)
    secondary = summed(torch.where(member.unsqueeze(2), inner, 0.0))
    size = summed(member.to(outer.dtype)).clamp(min=1).unsqueeze(2)
    return (primary * secondary / size).flatten(1)


@build_router.register
def _(config: HierarchicalRouter, shape: RouterShape) -> Router:
    return Hierarchical(config, shape)
