"""One kind of collective of a step, and what of it leaves a rank."""

from dataclasses import dataclass
from typing import Literal

Operation = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
Axis = Literal["shard", "replica", "expert shard", "expert replica", "expert", "tensor", "world"]


@dataclass(frozen=True)
class Collective:
    """``count`` calls of one step, each of ``size`` bytes, over ``group`` ranks of ``axis``;
    between them lie ``stride`` ranks."""

    what: str
    operation: Operation
    axis: Axis
    group: int
    stride: int
    count: int
    size: int

    @property
    def total(self) -> int:
        """Bytes of all calls."""
        return self.count * self.size

    @property
    def sent(self) -> float:
        """Bytes that leave a rank in one call, by the usual rings and pairs."""
        share = (self.group - 1) / self.group
        return self.size * share * (2 if self.operation == "all_reduce" else 1)

    @property
    def hidden(self) -> bool:
        """Whether a computation may go on meanwhile: the next layer's weights can be on their
        way, but nothing can be done with tokens that have not come."""
        return self.axis in ("shard", "replica", "expert shard", "expert replica")
