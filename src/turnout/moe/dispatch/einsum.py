"""Dispatch by one-hot masks: the oracle, and the form with static shapes throughout.

Axes: T tokens, D width, E experts, X blocks of tokens, n tokens of a block, C slots of an expert
in a block.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.pytree import pytree


@pytree()
@dataclass(frozen=True)
class EinsumTicket:
    """``weight`` is the combine tensor: a token's weight at its slots, zero elsewhere."""

    weight: Float[Tensor, "X n E C"]


@final
class EinsumDispatcher(Dispatcher[EinsumTicket]):
    """Every expert gets all slots of every group, empty ones as rows of zeros."""

    needs_slots = True

    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[EinsumTicket]:
        kept, weight = _masks(granted)
        token_kept = kept.sum((2, 3), dtype=torch.float32).flatten().unsqueeze(1) > 0
        # A padding row may hold NaN, which zero times NaN would spread.
        blocks = torch.where(token_kept, x, 0.0).view(*kept.shape[:2], x.shape[1])
        rows = torch.einsum("xnd,xnec->excd", blocks, kept.to(x.dtype))
        experts, per_expert = granted.num_experts, rows.shape[1] * rows.shape[2]
        ends = torch.arange(1, experts + 1, device=x.device, dtype=torch.int32) * per_expert
        return Dispatched(rows=rows.flatten(0, 2), offsets=ends, ticket=EinsumTicket(weight))

    def combine(self, rows: Float[Tensor, "M D"], ticket: EinsumTicket) -> Float[Tensor, "T D"]:
        blocks, _, experts, slots = ticket.weight.shape
        outputs = rows.float().view(experts, blocks, slots, rows.shape[1])
        summed = torch.einsum("excd,xnec->xnd", outputs, ticket.weight)
        return summed.flatten(0, 1).to(rows.dtype)


def _masks(granted: Granted) -> tuple[Float[Tensor, "X n E C"], Float[Tensor, "X n E C"]]:
    """The dispatch mask (0 or 1) and the combine tensor."""
    assignment = granted.assignment
    blocks = granted.num_groups // granted.groups_per_block
    per_block = assignment.num_tokens // blocks if blocks else 0
    capacity = per_block if granted.capacity is None else granted.capacity
    slots = granted.groups_per_block * capacity

    in_block = granted.group.index_select(0, assignment.token) % granted.groups_per_block
    column = assignment.expert * slots + in_block * capacity + granted.slot
    place = assignment.token * (granted.num_experts * slots) + column
    # Entries without a slot go to one place behind the last.
    size = assignment.num_tokens * granted.num_experts * slots
    place = torch.where(granted.kept, place, size)
    shape = (blocks, per_block, granted.num_experts, slots)
    empty = assignment.weight.new_zeros(size + 1)
    kept = empty.scatter_add(0, place, granted.kept.float())[:-1].view(shape)
    weight = empty.scatter_add(0, place, assignment.weight)[:-1].view(shape)
    return kept, weight
