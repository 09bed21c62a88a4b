"""Times several ways to do one thing, in turn, so that a busy machine slows them alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Work = Callable[[], object]

FEW: Final = 3  # repeats of a way that is far slower than the first


@dataclass(frozen=True)
class Part:
    """What a call returns of which a part alone is to count.

    Attributes:
        seconds: of that part.
    """

    seconds: float


@dataclass(frozen=True)
class Spread:
    """Quartiles of some figures."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of one figure, all three are it."""
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        return Spread(*statistics.quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Times:
    """Seconds of each way, by repeat."""

    seconds: Mapping[str, Sequence[float]]

    def spread(self, way: str) -> Spread:
        """Seconds of a way."""
        return Spread.of(self.seconds[way])

    def ratio(self, way: str, other: str) -> Spread:
        """The time of one way over that of another in the same repeat, of those that both have."""
        pairs = zip(self.seconds[way], self.seconds[other], strict=False)
        return Spread.of([one / two for one, two in pairs])


def interleaved(
    ways: Mapping[str, Work], repeats: int, warm: int = 1, patience: float = math.inf
) -> Times:
    """Times all ways in turn, ``repeats`` times; of a call that returns a ``Part``, that.

    Args:
        warm: calls of a way right before the one that is timed: the others have been at the cache.
        patience: what takes more than so many times the first way is timed ``FEW`` times alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    left = dict(ways)
    for repeat in range(repeats):
        if repeat == FEW:
            typical = {name: statistics.median(seconds[name]) for name in left}
            longest = patience * typical[next(iter(ways))]
            left = {name: work for name, work in left.items() if typical[name] <= longest}
        for name, work in left.items():
            for _ in range(warm):
                work()
            started = time.perf_counter()
            found = work()
            took = time.perf_counter() - started
            seconds[name].append(found.seconds if isinstance(found, Part) else took)
    return Times(seconds)
