"""Dispatch to experts on several ranks: sort by expert, exchange, sort what came.

Axes: T tokens, D width, N assignments, E experts of the layer, R ranks that share them out, L of
them on each (E = R * L), P rows that come to a rank, any number from 0.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.moe.dispatch.sorted import SortedDispatcher, SortedTicket
from turnout.pytree import pytree


@pytree(static=("sent", "received"))
@dataclass(frozen=True)
class Meeting:
    """Who sends how many rows to whom in one exchange.

    Attributes:
        sent: rows to each rank.
        received: rows from each rank.
        counts: rows from each rank for each expert that is here.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]
    counts: Int[Tensor, "R L"]


class Exchange(ABC):
    """Moves rows between the ranks that share out the experts of a layer; keeps no state.

    Every rank calls each method equally often, with as many rows as it has, none included.

    Attributes:
        ranks: how many share the experts out; rank r has the r-th of equal parts.
    """

    ranks: int

    @abstractmethod
    def meet(self, counts: Int[Tensor, "R L"]) -> Meeting:
        """Tells the others how many rows there are for each of their experts."""

    @abstractmethod
    def there(self, rows: Float[Tensor, "M D"], meeting: Meeting) -> Float[Tensor, "P D"]:
        """Rows to the ranks of their experts, in the order of the ranks."""

    @abstractmethod
    def back(self, rows: Float[Tensor, "P D"], meeting: Meeting) -> Float[Tensor, "M D"]:
        """The way back of ``there``."""


@pytree()
@dataclass(frozen=True)
class AllToAllTicket:
    """``home`` is where each row that came here stands among them; the rest is the exchange's."""

    home: Int[Tensor, " P"]
    meeting: Meeting
    sorted: SortedTicket


@final
class AllToAllDispatcher(Dispatcher[AllToAllTicket]):
    """One row an assignment with a slot, computed where its expert is.

    Of one expert's rows those from the first rank come first, each rank's in the order of its
    tokens.
    """

    needs_slots = False

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.local = SortedDispatcher()

    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[AllToAllTicket]:
        """Rows of this rank's experts, whoever sent them; offsets are those of L experts."""
        own = self.local.dispatch(x, granted)
        ends = own.offsets.long()
        counts = torch.diff(ends, prepend=ends.new_zeros(1)).view(self.exchange.ranks, -1)
        meeting = self.exchange.meet(counts)
        came = self.exchange.there(own.rows[: sum(meeting.sent)], meeting)
        order = torch.argsort(_experts(meeting), stable=True)
        home = torch.zeros_like(order).scatter(
            0, order, torch.arange(order.shape[0], device=order.device)
        )
        return Dispatched(
            rows=came.index_select(0, order),
            offsets=meeting.counts.sum(0).cumsum(0).to(torch.int32),
            ticket=AllToAllTicket(home, meeting, own.ticket),
        )

    def combine(self, rows: Float[Tensor, "P D"], ticket: AllToAllTicket) -> Float[Tensor, "T D"]:
        done = self.exchange.back(rows.index_select(0, ticket.home), ticket.meeting)
        without_slot = ticket.sorted.row.shape[0] - done.shape[0]
        return self.local.combine(F.pad(done, (0, 0, 0, without_slot)), ticket.sorted)


def _experts(meeting: Meeting) -> Int[Tensor, " P"]:
    """The expert, of those here, of each row that came."""
    ranks, experts = meeting.counts.shape
    each = torch.arange(experts, device=meeting.counts.device).repeat(ranks)
    return torch.repeat_interleave(
        each, meeting.counts.flatten(), output_size=sum(meeting.received)
    )
