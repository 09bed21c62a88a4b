"""The pictures of a comparison: loss against steps and clock, and speed-up against experts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turnout.compare.analysis import ArmResult, Comparison, PairResult
from turnout.compare.speed import running_minimum
from turnout.config.arms import DENSE
from turnout.probe.characters import printable
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, Chart, altair, panel, save

CURVES, EXPERTS = "comparison.png", "experts.png"
# Dense and the run itself are the two that matter; the others are told apart by hue.
_OTHERS = ("#5b8c3e", "#8457a6", "#b3261e", "#2a8c8c", "#8a6d1d", "#b0558f", "#6b7280", "#4f46b8")
_MEASURES = {"by steps": 0, "by training clock": 2}  # places in AXES
_SIZE = (470, 420)
_CUT = 8  # the first eighth of a run may leave the picture


def draw(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write the pictures into ``folder``: the curves, and with three expert counts or more their
    speed-ups.

    Raises:
        UserError: altair is not installed.
    """
    written = [save(curves(comparison), folder / CURVES)]
    if len(_by_experts(comparison)) > 2:
        written.append(save(experts(comparison), folder / EXPERTS))
    return tuple(written)


def curves(comparison: Comparison) -> Chart:
    """Validation loss by step and by training clock, a line a run, a colour an arm."""
    alt = altair()
    steps = _curve(comparison, "optimiser steps", lambda track: track.steps)
    clock = _curve(comparison, "seconds of training steps", lambda track: track.seconds)
    title = printable(f"{comparison.protocol.run.preset}: sparse against dense", 100)
    parts = [
        panel("By steps", ["best validation loss so far, nats a target; a line a seed"], [steps]),
        panel("By training clock", ["the same runs; evaluations are not counted"], [clock]),
    ]
    drawn = alt.hconcat(*parts, spacing=44)
    return drawn.properties(title=alt.Title(title, fontSize=24))


def experts(comparison: Comparison) -> Chart:
    """Speed-up over the dense twin by steps and by clock, against the number of experts."""
    alt = altair()
    points = [
        {"experts": count, "ratio": ratio.value, "measure": measure}
        for count, pair in _by_experts(comparison)
        for measure, axis in _MEASURES.items()
        for ratio in pair.ratios[axis]
        if ratio.value is not None
    ]
    medians = [
        {"experts": count, "ratio": pair.spreads[axis].median.value, "measure": measure}
        for count, pair in _by_experts(comparison)
        for measure, axis in _MEASURES.items()
        if pair.spreads[axis].median.value is not None
    ]
    counts = [count for count, _ in _by_experts(comparison)]
    encoding = {
        "x": alt.X(
            "experts:Q",
            title="experts a sparse layer",
            scale=alt.Scale(type="log", base=2, nice=False, padding=16),
            axis=alt.Axis(values=counts, grid=False),
        ),
        "y": alt.Y("ratio:Q", title=None, scale=alt.Scale(zero=False)),
        "color": _colour(alt, tuple(_MEASURES), (ORANGE, BLUE), "measure:N"),
    }
    even = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(strokeDash=[6, 4], color=FAINT)
    line = alt.Chart(alt.Data(values=medians)).mark_line(strokeWidth=2.5).encode(**encoding)
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=80, opacity=1)
    drawn = alt.layer(even.encode(y="one:Q"), line, dots.encode(**encoding))
    return panel(
        "Speed-up over the dense twin",
        [
            "to its final quality; dashed: no faster",
            "a point a seed that got there, a median line",
        ],
        [drawn.properties(width=620, height=_SIZE[1])],
    )


def _by_experts(comparison: Comparison) -> list[tuple[int, PairResult]]:
    """Expert counts and their pairs with the dense twin, without the decayed arms."""
    names = {f"experts-{count}": count for count in comparison.protocol.compare.experts}
    return sorted(
        (names[pair.arm], pair)
        for pair in comparison.pairs
        if pair.baseline == DENSE and pair.arm in names
    )


def _curve(comparison: Comparison, title: str, spent: Any) -> Chart:
    alt = altair()
    rows = [row for result in comparison.arms for row in _rows(result, spent)]
    names = [result.arm.name for result in comparison.arms]
    colours = (INK, ORANGE, BLUE, *_OTHERS)
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(
            x=alt.X(
                "spent:Q",
                title=title,
                scale=alt.Scale(zero=True, nice=False),
                axis=alt.Axis(grid=False, tickCount=6),
            ),
            y=alt.Y(
                "loss:Q",
                title=None,
                scale=alt.Scale(domain=_domain(comparison), nice=False),
                axis=alt.Axis(tickCount=7, domain=False),
            ),
            color=_colour(
                alt, names, [colours[i % len(colours)] for i in range(len(names))], "arm:N"
            ),
            detail="seed:N",
        )
        .properties(width=_SIZE[0], height=_SIZE[1])
    )


def _colour(alt: Any, names: Sequence[str], colours: Sequence[str], field: str) -> Any:
    return alt.Color(
        field,
        scale=alt.Scale(domain=list(names), range=list(colours)),
        legend=alt.Legend(orient="top", title=None, symbolStrokeWidth=3, offset=8, columns=4),
    )


def _rows(result: ArmResult, spent: Any) -> list[dict[str, Any]]:
    return [
        {"spent": at, "loss": loss, "arm": result.arm.name, "seed": seed.seed}
        for seed, track in zip(result.seeds, result.tracks, strict=True)
        if track is not None
        for at, loss in zip(spent(track), running_minimum(track.losses), strict=True)
        if math.isfinite(loss)
    ]


def _domain(comparison: Comparison) -> list[float]:
    """From a little below the best loss to the worst one after the first part of the runs."""
    shown = []
    for result in comparison.arms:
        for track in filter(None, result.tracks):
            best = running_minimum(track.losses)
            shown += [loss for loss in best[len(best) // _CUT :] if math.isfinite(loss)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    room = max(high - low, 1e-3)
    return [low - 0.06 * room, high + 0.04 * room]
