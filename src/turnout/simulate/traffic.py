"""The exchange of counts that a simulation puts in the place of the real one."""

from dataclasses import dataclass, field
from typing import TypeVar, final

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup

from turnout.models.base import Model
from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.parallel.apply import sparse_sublayers
from turnout.simulate.loads import Demand, Load

TicketT = TypeVar("TicketT")


@dataclass
class Traffic:
    """Who sends how many rows, by a load model; it has to know which layer is at work.

    Attributes:
        demands: of all layers that ran, by name, the last of each.
    """

    load: Load
    demands: dict[str, Demand] = field(default_factory=dict)
    _now: Demand | None = None

    def begin(self, demand: Demand) -> None:
        """The next counts are those of this layer."""
        self._now = self.demands[demand.layer] = demand

    def counts(
        self, sent: Int[Tensor, "R L"], group: ProcessGroup
    ) -> tuple[tuple[int, ...], tuple[int, ...], Int[Tensor, "R L"]]:
        """In the place of ``exchange_counts``: the same collective, but sizes of the load model."""
        assert self._now is not None, "a layer announces itself"
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent.contiguous(), group=group)
        ranks, rank = group.size(), group.rank()
        table = self.load.sent(self._now, ranks).reshape(ranks, ranks, -1).sum(2)
        return tuple(table[rank].tolist()), tuple(table[:, rank].tolist()), received

    def arrivals(self, ranks: int) -> np.ndarray:
        """Rows that come to each rank of an expert axis in one pass of all layers that ran."""
        found = np.zeros(ranks, dtype=np.int64)
        for demand in self.demands.values():
            found += self.load.sent(demand, ranks).sum(0).reshape(ranks, -1).sum(1)
        return found


@final
class AnnouncedDispatcher(Dispatcher[TicketT]):
    """Another dispatcher, which says before each exchange of which layer it is."""

    def __init__(self, inner: Dispatcher[TicketT], traffic: Traffic, layer: str, k: int) -> None:
        self.inner = inner
        self.traffic = traffic
        self.layer = layer
        self.k = k
        self.needs_slots = inner.needs_slots

    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[TicketT]:
        slots = None if granted.capacity is None else granted.capacity * granted.num_groups
        self.traffic.begin(Demand(self.layer, granted.num_experts, x.shape[0], self.k, slots))
        return self.inner.dispatch(x, granted)

    def combine(self, rows: Float[Tensor, "M D"], ticket: TicketT) -> Float[Tensor, "T D"]:
        return self.inner.combine(rows, ticket)


def announce(model: Model, traffic: Traffic) -> None:
    """Have ``traffic`` know which layer of a laid-out model exchanges counts."""
    for sublayer in sparse_sublayers(model):
        layer = sublayer.moe
        layer.dispatcher = AnnouncedDispatcher(
            layer.dispatcher, traffic, layer.name, layer.router.active
        )
