"""The learning curve of a run, from the records it wrote."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Point:
    """Bits per byte of text after ``step`` optimiser steps."""

    step: int
    bits: float


@dataclass(frozen=True)
class Curve:
    """Training batches and evaluations on held-out text, by step."""

    training: tuple[Point, ...]
    validation: tuple[Point, ...]

    def smoothed(self, width: int) -> tuple[Point, ...]:
        """Means of ``width`` (odd) neighbouring training batches, at the step in their middle.

        Only whole means: the first and the last ``width // 2`` steps have none.
        """
        sums = list(accumulate((point.bits for point in self.training), initial=0.0))
        return tuple(
            Point(point.step, (sums[index + width] - sums[index]) / width)
            for index, point in enumerate(
                self.training[width // 2 : len(self.training) - width // 2]
            )
        )


def read_curve(run: Path) -> Curve:
    """The curve in ``metrics.jsonl`` of a run folder; a broken last line is left out.

    Raises:
        UserError: there is no such file, or no step in it.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise UserError(f"{path} is missing; give the folder of a run, which has it")
    by_kind: dict[str, dict[int, float]] = {"step": {}, "evaluation": {}}
    for record in records(path):
        if record.get("kind") in by_kind and _finite(record.get("bits")):
            by_kind[record["kind"]][int(record["step"])] = float(record["bits"])
    training, validation = (
        tuple(Point(step, bits) for step, bits in sorted(points.items()))
        for points in by_kind.values()
    )
    if not training and not validation:
        raise UserError(f"{path} holds no step; train the run first")
    return Curve(training, validation)


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a ``metrics.jsonl``, each with its ``step``; broken lines are left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError):
            continue  # the last line of a run that was killed while writing it
        yield record


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
