"""Dispatch by a stable sort: rows by expert, product, inverse permutation. Nothing is padded.

Axes: T tokens, D width, E experts, N assignments, K choices a token.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.moe.dispatch.rows import for_a_compiler, sent, weighted_home
from turnout.pytree import pytree

FEW = 64  # assignments, whose every pair is compared sooner than they are sorted


@pytree(static=("num_tokens", "per_token"))
@dataclass(frozen=True)
class SortedTicket:
    """``row`` is where each assignment's row went; the rest is the assignment's own."""

    row: Int[Tensor, " N"]
    token: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]
    kept: Bool[Tensor, " N"]
    num_tokens: int
    per_token: int | None


@final
class SortedDispatcher(Dispatcher[SortedTicket]):
    """One row an assignment; those without a slot sort behind the last offset."""

    needs_slots = False

    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[SortedTicket]:
        assignment, experts = granted.assignment, granted.num_experts
        expert = torch.where(granted.kept, assignment.expert, experts)
        few = for_a_compiler() and len(expert) <= FEW
        order, row, offsets = (compared if few else sorted_by)(expert, experts)
        ticket = SortedTicket(
            row=row,
            token=assignment.token,
            weight=assignment.weight,
            kept=granted.kept,
            num_tokens=assignment.num_tokens,
            per_token=assignment.per_token,
        )
        token = assignment.token.index_select(0, order)
        per_token = assignment.per_token
        return Dispatched(
            rows=x.index_select(0, token) if per_token is None else sent(x, token, row, per_token),
            offsets=offsets,
            ticket=ticket,
        )

    def combine(self, rows: Float[Tensor, "N D"], ticket: SortedTicket) -> Float[Tensor, "T D"]:
        if ticket.per_token is not None:
            return weighted_home(rows, ticket.weight, ticket.row, ticket.kept, ticket.per_token)
        kept = ticket.kept.unsqueeze(1)
        weight = torch.where(kept, ticket.weight.unsqueeze(1), 0.0)
        home = torch.where(kept, rows.index_select(0, ticket.row), 0.0)
        weighted = home * weight  # float32: the weight's dtype is the wider one
        summed = weighted.new_zeros(ticket.num_tokens, rows.shape[1])
        return summed.index_add(0, ticket.token, weighted).to(rows.dtype)


Order = tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " E"]]
"""The assignment of every row, the row of every assignment, and where each expert's rows end."""


def sorted_by(expert: Int[Tensor, " N"], experts: int) -> Order:
    """Assignments by expert and then as they come; those of no expert have the number behind the
    last."""
    order = torch.argsort(expert, stable=True)
    index = torch.arange(order.shape[0], device=order.device)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=expert.device)
    counts = counts.scatter_add_(0, expert, torch.ones_like(expert))
    row = torch.zeros_like(order).scatter(0, order, index)
    return order, row, counts[:-1].cumsum(0).to(torch.int32)


def compared(expert: Int[Tensor, " N"], experts: int) -> Order:
    """The same for a few, by comparing each with each: a compiler makes one loop of it, where a
    sort is a call of its own."""
    index = torch.arange(len(expert), device=expert.device)
    one, other = expert.unsqueeze(1), expert.unsqueeze(0)
    before = (other < one) | ((other == one) & (index.unsqueeze(0) < index.unsqueeze(1)))
    row = before.sum(1)
    order = ((row.unsqueeze(0) == index.unsqueeze(1)) * index).sum(1)
    ends = torch.arange(experts, device=expert.device).unsqueeze(1) >= other
    return order, row, ends.sum(1).to(torch.int32)
