"""How the load of a layer's experts went, in a bounded number of equal spans of steps.

Axes: E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float64

MOST_SPANS: Final = 240


@dataclass(frozen=True)
class Span:
    """Steps ``first`` to ``last`` and each expert's share of the assignments in them."""

    first: int
    last: int
    shares: tuple[float, ...]


@dataclass
class LoadHistory:
    """Adds up assignments; when there are too many spans, neighbours become one.

    So a run of any length is read once, in memory that does not grow with it.
    """

    most: int = MOST_SPANS
    width: int = 1
    sums: dict[int, Float64[np.ndarray, " E"]] = field(default_factory=dict)
    steps: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def experts(self) -> int:
        """E; 0 when nothing was counted."""
        return max(map(len, self.sums.values()), default=0)

    def add(self, step: int, assigned: Sequence[float]) -> None:
        """Count the assignments [E] of a step; a count that is not finite or negative is none."""
        given = np.array(assigned, dtype=np.float64)
        counts = np.where((given > 0) & (given < np.inf), given, 0.0)
        self._put(step // self.width, counts, (step, step))
        while len(self.sums) > self.most:
            self._merge()

    def spans(self, most: int = MOST_SPANS) -> tuple[Span, ...]:
        """In order of steps, neighbours merged until there are at most ``most``.

        A span without any assignment, or with another number of experts, is left out.
        """
        shown = LoadHistory(self.most, self.width, dict(self.sums), dict(self.steps))
        while len(shown.sums) > max(most, 1):
            shown._merge()
        return tuple(
            Span(*shown.steps[key], tuple((row / row.sum()).tolist()))
            for key, row in sorted(shown.sums.items())
            if len(row) == shown.experts and row.sum() > 0
        )

    def _put(self, key: int, counts: Float64[np.ndarray, " E"], steps: tuple[int, int]) -> None:
        row = self.sums.get(key)
        if row is not None and len(row) != len(counts):
            return
        self.sums[key] = counts if row is None else row + counts
        first, last = self.steps.get(key, steps)
        self.steps[key] = (min(first, steps[0]), max(last, steps[1]))

    def _merge(self) -> None:
        sums, steps = self.sums, self.steps
        self.sums, self.steps, self.width = {}, {}, self.width * 2
        for key, row in sums.items():
            self._put(key // 2, row, steps[key])
