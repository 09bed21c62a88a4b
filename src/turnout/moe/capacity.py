"""Who gets a slot: assignments are served in order until an expert is full.

Slots are numbered within (group, expert). Axes: N assignments, G groups, E experts, K choices.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from turnout.moe.assignment import Assignment


@dataclass(frozen=True)
class Cells:
    """The (group, expert) cell of every assignment; entries that are not live have none."""

    cell: Int[Tensor, " N"]
    order: Int[Tensor, " N"]
    num_groups: int
    num_experts: int

    @staticmethod
    def of(
        assignment: Assignment,
        order: Int[Tensor, " N"],
        group: Int[Tensor, " T"],
        num_groups: int,
        num_experts: int,
    ) -> "Cells":
        cell = group.index_select(0, assignment.token) * num_experts + assignment.expert
        dead = num_groups * num_experts
        return Cells(torch.where(assignment.live, cell, dead), order, num_groups, num_experts)

    def sorted(self) -> Int[Tensor, " N"]:
        """Entries by cell and, within a cell, in serving order."""
        by_cell = torch.argsort(self.cell.index_select(0, self.order), stable=True)
        return self.order.index_select(0, by_cell)

    def rank(self, entries: Int[Tensor, " N"], counted: Bool[Tensor, " N"]) -> Int[Tensor, " N"]:
        """How many counted entries of the same cell stand before each, by original index.

        ``entries`` is ``sorted()``.
        """
        cell = self.cell.index_select(0, entries)
        ones = counted.index_select(0, entries).long()
        before = ones.cumsum(0) - ones
        totals = torch.zeros(
            self.num_groups * self.num_experts + 1, dtype=torch.int64, device=cell.device
        ).scatter_add_(0, cell, ones)
        start = totals.cumsum(0) - totals
        rank = before - start.index_select(0, cell)
        return torch.zeros_like(rank).scatter(0, entries, rank)


def grant(
    assignment: Assignment,
    order: Int[Tensor, " N"],
    group: Int[Tensor, " T"],
    *,
    num_groups: int,
    num_experts: int,
    capacity: int | None,
    at_most: int | None = None,
) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Serves the live assignments in ``order``; each takes the next slot of its expert.

    Args:
        group: routing group of each token.
        capacity: slots an expert has in each group; None for as many as needed.
        at_most: slots a token may take. With ``at_most=1`` and K candidates this is
            no-token-left-behind (Switch Transformers, appendix B): a candidate counts only if
            the token has not been served before. Needs token-choice assignments.

    Returns:
        slot: slot within (group, expert), 0 where not kept.
        kept: True where the assignment has a slot.
    """
    cells = Cells.of(assignment, order, group, num_groups, num_experts)
    entries = cells.sorted()
    wanted = assignment.live
    if at_most is not None:
        wanted = _served(assignment, cells, entries, capacity, at_most)
    slot = cells.rank(entries, wanted)
    kept = wanted if capacity is None else wanted & (slot < capacity)
    return torch.where(kept, slot, 0), kept


def _served(
    assignment: Assignment,
    cells: Cells,
    entries: Int[Tensor, " N"],
    capacity: int | None,
    at_most: int,
) -> Bool[Tensor, " N"]:
    """Entries that are taken when a token stops after ``at_most`` slots.

    Whether an entry is taken depends on which experts were full before it. Only the moments at
    which experts fill up matter, at most E a group, so the walk is replayed from one such moment
    to the next: assume no further expert fills, see which entries would be taken, and fix the
    earliest expert that overflows under that assumption; what stood before it is final.
    """
    turn = torch.zeros_like(cells.order).scatter(
        0, cells.order, torch.arange(len(cells.order), device=cells.order.device)
    )
    never = len(cells.order)
    shape = (cells.num_groups, cells.num_experts)
    # The turn at which each cell took its last slot; entries of a later turn find it full.
    full_at = torch.full((shape[0] * shape[1] + 1,), never, device=turn.device)
    taken = _first_open(assignment, turn, full_at, cells, at_most)
    if capacity is None:
        return taken
    for _ in range(cells.num_experts):
        last = taken & (cells.rank(entries, taken) == capacity - 1)
        filled = torch.full_like(full_at, never).scatter_reduce(
            0, cells.cell, torch.where(last, turn, never), "amin"
        )
        unfixed = torch.where(full_at < never, never, filled)[:-1].view(shape)
        earliest = (unfixed == unfixed.amin(1, keepdim=True)) & (unfixed < never)
        fixed = torch.where(earliest, unfixed, full_at[:-1].view(shape))
        full_at = torch.cat([fixed.flatten(), full_at[-1:]])
        taken = _first_open(assignment, turn, full_at, cells, at_most)
    return taken


def _first_open(
    assignment: Assignment,
    turn: Int[Tensor, " N"],
    full_at: Int[Tensor, " M"],
    cells: Cells,
    at_most: int,
) -> Bool[Tensor, " N"]:
    """The first ``at_most`` entries of each token whose expert is not full at their turn."""
    assert assignment.per_token is not None
    is_open = assignment.live & (turn <= full_at.index_select(0, cells.cell))
    table = is_open.view(-1, assignment.per_token).long()
    earlier = table.cumsum(1) - table
    return is_open & (earlier < at_most).flatten()
