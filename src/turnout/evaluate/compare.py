"""Two models on the same questions, example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from turnout.evaluate.metrics.measure import Measure
from turnout.evaluate.metrics.uncertainty import Difference, difference
from turnout.evaluate.report import difference_line
from turnout.evaluate.run import Result

HEAD = ("task", "measure", "first", "second", "second - first", "95% interval", "p", "test")
LEVEL = 0.05


@dataclass(frozen=True)
class Compared:
    """One measure of one task."""

    task: str
    first: Measure
    second: Measure
    found: Difference

    @property
    def line(self) -> tuple[str, ...]:
        """A row below ``HEAD``."""
        return difference_line(self.task, self.first, self.second, self.found)

    @property
    def verdict(self) -> str:
        """One line in words."""
        name, p = f"{self.task}, {self.first.name}", f"p = {self.found.p:.2g}"
        if self.found.p >= LEVEL:
            return f"{name}: no difference that chance would not make ({p}, not below {LEVEL})"
        better = "second" if (self.found.value > 0) == self.first.higher else "first"
        return f"{name}: the {better} is better ({p})"

    @property
    def data(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "first": self.first.value,
            "second": self.second.value,
            "difference": self.found.value,
            "low": self.found.interval.low,
            "high": self.found.interval.high,
            "p": self.found.p,
            "test": self.found.test,
            "n": self.first.count,
        }


def compared(first: Result, second: Result, seed: int) -> Sequence[Compared]:
    """Every measure of two results over the same questions; the main one first."""
    pairs = zip(first.measures, second.measures, strict=True)
    return [
        Compared(first.task.name, one, other, difference(one, other, seed)) for one, other in pairs
    ]
