"""Expert choice (Zhou et al. 2022, 2202.09368): experts take tokens, all of them equally many.

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K columns of decisions, X blocks
of tokens, n tokens of a block, C slots of an expert in a group, N assignments.
"""

from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from turnout.config.errors import ConfigError
from turnout.config.routers import ExpertChoiceRouter
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
from turnout.moe.transport import capped_shares
from turnout.nn.init import matrix_normal_


@final
class ExpertChoice(Router):
    """``p = softmax(W x)``; every expert takes the C tokens of a group with its largest p.

    ``y = sum over the experts that took the token of p_i E_i(x)``, with C = k n / E for the
    configured n tokens of a group; in evaluation too. A token may have any number of experts, or
    none. What a token gets depends on its whole group, later tokens too: never causal.

    With ``cap`` (the paper's EC-CAP) each expert takes its C largest entries of an A that is
    solved for with that bound on a token's experts. Since A is soft, more experts may take a
    token nevertheless; then it keeps those of its largest A (that is ours). The weights stay p.
    """

    def __init__(self, shape: RouterShape, config: ExpertChoiceRouter, slots: int) -> None:
        super().__init__(
            choices=shape.num_experts if config.cap is None else config.cap,
            active=config.k,
            couples="group",
            couples_in_evaluation="group",
        )
        self.config = config
        self.slots = slots
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
        log_probability = F.log_softmax(logits, dim=1)
        if context.chosen is not None:
            assignment = self._replayed(log_probability, context)
        else:
            refuse_partial(context, self.config.kind)
            taken = self._taken(log_probability.detach(), context)
            assignment = _entries(taken, log_probability, context, self.slots)
        return assignment, router_stats(logits, log_probability, assignment, context)

    def _taken(
        self, log_probability: Float[Tensor, "T E"], context: RoutingContext
    ) -> Bool[Tensor, "T E"]:
        config = self.config
        if config.cap is None:  # the logarithm orders as p does, and is never rounded to zero
            return best_tokens(log_probability, context, self.slots)
        shares = capped_shares(
            log_probability.exp(),
            context,
            slots=self.slots,
            cap=config.cap,
            strength=config.strength,
            sweeps=config.sweeps,
        )
        taken = best_tokens(shares, context, self.slots)
        return taken & (standing(shares, taken) < config.cap)

    def _replayed(
        self, log_probability: Float[Tensor, "T E"], context: RoutingContext
    ) -> Assignment:
        """What a record says, token by token; how an expert stands is found anew."""
        choices = choose(log_probability, self.choices, context)
        chosen = log_probability.take_along_dim(choices.expert, dim=1)
        assignment = Assignment.token_choice(choices.expert, chosen.exp(), chosen, choices.taken)
        taken = torch.zeros_like(log_probability, dtype=torch.int64)
        taken = taken.scatter_add(1, choices.expert, choices.taken.long()) > 0
        rank = standing(log_probability.detach(), taken).take_along_dim(choices.expert, dim=1)
        return replace(assignment, choice=rank.flatten())


def best_tokens(
    scores: Float[Tensor, "T E"], context: RoutingContext, slots: int
) -> Bool[Tensor, "T E"]:
    """True for each expert's ``slots`` best live tokens of every group, all of fewer; ties to the
    lower token."""
    blocks, size = _blocks(context)
    live = context.mask.flatten().unsqueeze(1)
    ordered = torch.where(live, scores, -torch.inf).view(blocks, size, scores.shape[1])
    ordered = ordered.transpose(1, 2)
    by_score = torch.argsort(ordered, dim=2, descending=True, stable=True)
    group = context.group.reshape(blocks, 1, size).expand_as(by_score).gather(2, by_score)
    by_group = torch.argsort(group, dim=2, stable=True)
    order = by_score.gather(2, by_group)
    group = group.gather(2, by_group)
    place = torch.arange(size, device=group.device).expand_as(group)
    starts = torch.diff(group, dim=2, prepend=group[:, :, :1]) != 0
    rank = place - torch.where(starts, place, 0).cummax(2).values
    best = torch.zeros_like(rank, dtype=torch.bool).scatter(2, order, rank < slots)
    return best.transpose(1, 2).flatten(0, 1) & live


def standing(scores: Float[Tensor, "T E"], taken: Bool[Tensor, "T E"]) -> Int[Tensor, "T E"]:
    """How many of a token's own experts it scores above each: 0 for its best one."""
    order = torch.argsort(
        torch.where(taken, scores, -torch.inf), dim=1, descending=True, stable=True
    )
    number = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, number)


def _blocks(context: RoutingContext) -> tuple[int, int]:
    """Blocks of whole groups, and tokens of a block; both constants of the shapes."""
    blocks = context.num_groups // context.groups_per_block
    return blocks, context.mask.numel() // blocks if blocks else 0


def _entries(
    taken: Bool[Tensor, "T E"],
    log_probability: Float[Tensor, "T E"],
    context: RoutingContext,
    slots: int,
) -> Assignment:
    """The pairs taken as X * E * min(C groups, n) entries, those of first choices first.

    An expert has at most so many tokens of a block; what is left of the entries is not live.
    """
    experts = taken.shape[1]
    blocks, size = _blocks(context)
    most = min(slots * context.groups_per_block, size)
    table = taken.view(blocks, size, experts).transpose(1, 2)
    place = torch.argsort((~table).to(torch.uint8), dim=2, stable=True)[:, :, :most]
    live = table.gather(2, place).flatten()
    device = taken.device
    token = (place + torch.arange(blocks, device=device).view(-1, 1, 1) * size).flatten()
    expert = torch.arange(experts, device=device).view(1, -1, 1).expand_as(place).flatten()

    pair = token * experts + expert
    rank = standing(log_probability.detach(), taken).flatten().index_select(0, pair)
    choice = torch.where(live, rank, 0)
    order = torch.argsort(choice, stable=True)
    chosen = log_probability.flatten().index_select(0, pair.index_select(0, order))
    live = live.index_select(0, order)
    return Assignment(
        token=token.index_select(0, order),
        expert=expert.index_select(0, order),
        choice=choice.index_select(0, order),
        weight=torch.where(live, chosen.exp(), 0.0),
        log_probability=chosen,
        live=live,
        num_tokens=taken.shape[0],
        per_token=None,
    )


@build_router.register
def _(config: ExpertChoiceRouter, shape: RouterShape) -> Router:
    if shape.slots is None:
        raise ConfigError(
            "group_tokens",
            None,
            "the configured tokens of a routing group, which say how many an expert takes",
            f"give group_tokens, or take another router than {config.kind}",
        )
    return ExpertChoice(shape, config, shape.slots)
