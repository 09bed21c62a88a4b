"""Times several ways to do one thing, in turn, so that a busy machine slows them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


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
        """The time of one way over that of another in the same repeat."""
        pairs = zip(self.seconds[way], self.seconds[other], strict=True)
        return Spread.of([one / two for one, two in pairs])


def interleaved(ways: Mapping[str, Work], repeats: int, warm: int = 1) -> Times:
    """Times all ways in turn, ``repeats`` times.

    Args:
        warm: calls of a way right before the one that is timed: the others have been at the cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            for _ in range(warm):
                work()
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return Times(seconds)
