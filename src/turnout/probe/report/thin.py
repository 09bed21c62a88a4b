"""Long columns made short enough to draw, without hiding what stands out in them.

Axes: N recorded steps, P points drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from turnout.probe.report.records import History

MOST_POINTS: Final = 600
_SMOOTHED = 40  # a mean covers this part of the run
_NARROWEST = 5


@dataclass(frozen=True)
class Line:
    """Points by step."""

    step: tuple[int, ...]
    value: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.step)


def envelope(steps: Sequence[int], values: Sequence[float], most: int = MOST_POINTS) -> Line:
    """The finite points, or the lowest and the highest of each of ``most / 2`` equal parts.

    So a spike of one step is drawn however long the run is.
    """
    step, value = _finite(steps, values)
    if len(step) <= most:
        return _line(step, value)
    kept = np.zeros(len(step), dtype=bool)
    for part in np.array_split(np.arange(len(step)), most // 2):
        kept[part[value[part].argmin()]] = kept[part[value[part].argmax()]] = True
    return _line(step[kept], value[kept])


def smoothed(steps: Sequence[int], values: Sequence[float], most: int = MOST_POINTS // 2) -> Line:
    """Running means of ``width_of(len(steps))`` finite neighbours, at the step in their middle.

    Only whole means; evenly thinned out to at most ``most`` points, the first and last kept.
    """
    step, value = _finite(steps, values)
    width = width_of(len(step))
    if len(step) < width:
        return Line((), ())
    sums = np.concatenate([[0.0], np.cumsum(value)])
    means = (sums[width:] - sums[:-width]) / width
    middle = step[width // 2 : len(step) - width // 2]
    place = np.unique(np.linspace(0, len(means) - 1, min(most, len(means))).round().astype(int))
    return _line(middle[place], means[place])


def evaluated(history: History) -> Line:
    """Bits on held-out text by step."""
    found = [
        (step, record["bits"])
        for step, record in sorted(history.evaluations.items())
        if math.isfinite(record.get("bits", math.nan))
    ]
    return Line(tuple(step for step, _ in found), tuple(bits for _, bits in found))


def width_of(count: int) -> int:
    """How many of ``count`` steps a mean covers: odd, a fortieth of them, at least 5."""
    return max(count // _SMOOTHED, _NARROWEST) // 2 * 2 + 1


def _finite(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[Int64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
    step = np.fromiter(steps, np.int64, len(steps))
    value = np.fromiter(values, np.float64, len(values))
    kept: Bool[np.ndarray, " N"] = np.isfinite(value)
    return step[kept], value[kept]


def _line(step: Int64[np.ndarray, " P"], value: Float64[np.ndarray, " P"]) -> Line:
    return Line(tuple(step.tolist()), tuple(value.tolist()))
