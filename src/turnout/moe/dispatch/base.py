"""Dispatchers move rows to experts and back. They hold no parameter and keep no state.

Axes: T tokens, D width, M rows as experts see them, E experts, N assignments.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.moe.assignment import Assignment
from turnout.pytree import pytree


@pytree(static=("num_groups", "groups_per_block", "num_experts", "capacity"))
@dataclass(frozen=True)
class Granted:
    """Assignments with their slots.

    Attributes:
        slot: slot within (group, expert); meaningful where kept.
        kept: True where the assignment has a slot.
        group: routing group of each token.
        groups_per_block: groups that share one contiguous block of tokens.
        capacity: slots of an expert in a group; None for as many as needed.
    """

    assignment: Assignment
    slot: Int[Tensor, " N"]
    kept: Bool[Tensor, " N"]
    group: Int[Tensor, " T"]
    num_groups: int
    groups_per_block: int
    num_experts: int
    capacity: int | None


TicketT = TypeVar("TicketT")


@dataclass(frozen=True)
class Dispatched(Generic[TicketT]):
    """Rows sorted by expert, the end of each expert's rows (int32), and the way back."""

    rows: Float[Tensor, "M D"]
    offsets: Int[Tensor, " E"]
    ticket: TicketT


class Dispatcher(ABC, Generic[TicketT]):
    """Two verbs; the frozen ticket carries what the second needs from the first.

    Attributes:
        needs_slots: whether slots must be numbered even where nothing is dropped.
    """

    needs_slots: bool

    @abstractmethod
    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[TicketT]:
        """Copies each kept assignment's token to a row of its expert; M is static."""

    @abstractmethod
    def combine(self, rows: Float[Tensor, "M D"], ticket: TicketT) -> Float[Tensor, "T D"]:
        """Sums each token's rows times their float32 weights, in float32, cast once.

        A token without a kept assignment gets zero.
        """
