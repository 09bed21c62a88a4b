"""What the horizontal axes of a report can count: steps, tokens, time, arithmetic."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from turnout.probe.report.facts import Facts
from turnout.probe.report.picture import Axis

_KNOTS: Final = 400
_UNITS: Final = (
    (172_800.0, 86_400.0, "days"),
    (7_200.0, 3_600.0, "hours"),
    (180.0, 60.0, "minutes"),
)


def axes(runs: Sequence[Facts], *, arithmetic: bool) -> tuple[Axis, ...]:
    """Steps, and whatever else every run recorded; ``arithmetic`` asks for FLOPs as well."""
    found = [Axis("steps", "optimiser steps")]
    tokens = [_knots(facts, facts.history.scalars["tokens"]) for facts in runs]
    if all(len(steps) > 1 for steps, _ in tokens):
        found.append(Axis("tokens", "tokens", tuple(tokens)))
    if arithmetic and all(facts.step_flops for facts in runs):
        ends = [max(facts.history.last_step(), 1) for facts in runs]
        pairs = zip(ends, (facts.step_flops for facts in runs), strict=True)
        lines = tuple(([0.0, float(end)], [0.0, end * flops]) for end, flops in pairs)
        found.append(Axis("arithmetic", "FLOPs of training (three forward passes a step)", lines))
    spent = [_knots(facts, facts.history.seconds) for facts in runs]
    if all(len(steps) > 1 and values[-1] > 0 for steps, values in spent):
        most = max(values[-1] for _, values in spent)
        scale, unit = next(((s, u) for least, s, u in _UNITS if most >= least), (1.0, "seconds"))
        scaled = tuple((steps, [value / scale for value in values]) for steps, values in spent)
        found.append(Axis("time", f"{unit} of steps and evaluations", scaled))
    return tuple(found)


def _knots(facts: Facts, values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps and values between which the axis is linear; it begins at (0, 0)."""
    step = np.asarray(facts.history.step, dtype=np.float64)
    value = np.asarray(values, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(value))
    place = kept[
        np.unique(np.linspace(0, len(kept) - 1, min(_KNOTS, len(kept))).round().astype(int))
    ]
    return [0.0, *step[place].tolist()], [0.0, *value[place].tolist()]
