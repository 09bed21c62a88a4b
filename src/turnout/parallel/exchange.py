"""The exchange of rows between the ranks that share out the experts of a layer."""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup

from turnout.moe.dispatch.all_to_all import Exchange, Meeting
from turnout.parallel.collectives import all_to_all, exchange_counts

CountExchange = Callable[[Tensor, ProcessGroup], tuple[tuple[int, ...], tuple[int, ...], Tensor]]


@final
class ExpertExchange(Exchange):
    """Over the ranks of a process group.

    Args:
        wire: the dtype in which rows travel; None: that of the computation.
        counts: how the ranks learn of each other's sizes; a simulation puts its own in its place.
    """

    def __init__(
        self,
        group: ProcessGroup,
        wire: torch.dtype | None = None,
        counts: CountExchange = exchange_counts,
    ) -> None:
        self.ranks = group.size()
        self.group = group
        self.wire = wire
        self.counts = counts

    def meet(self, counts: Int[Tensor, "R L"]) -> Meeting:
        return Meeting(*self.counts(counts, self.group))

    def there(self, rows: Float[Tensor, "M D"], meeting: Meeting) -> Float[Tensor, "P D"]:
        return all_to_all(rows, meeting.sent, meeting.received, self.group, self.wire)

    def back(self, rows: Float[Tensor, "P D"], meeting: Meeting) -> Float[Tensor, "M D"]:
        return all_to_all(rows, meeting.received, meeting.sent, self.group, self.wire)
