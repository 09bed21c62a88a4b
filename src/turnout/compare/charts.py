"""The pictures of a comparison: loss against steps and clock, and speed-up against experts."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from turnout.compare.analysis import ArmResult, Comparison, PairResult
from turnout.compare.speed import running_minimum
from turnout.compare.track import Track
from turnout.config.arms import DENSE
from turnout.probe.characters import printable
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, Chart, altair, panel, save

CURVES, EXPERTS = "comparison.png", "experts.png"
Spent = Callable[[ArmResult, Track], tuple[float, ...]]

# Dense models are dark to blue; sparse ones orange, the darker the more experts.
_DENSE = {DENSE: INK, "dense-wider": BLUE, "dense-deeper": "#5f9bd6", "dense-decay": FAINT}
_SPARSE = ("#f0b285", "#dd7f3d", ORANGE, "#8c370a", "#562206")
_DECAYED = "#8457a6"
_MEASURES = {"by steps": 0, "by training clock": 2}  # places in AXES
_GOAL = "dashed: the final quality of the dense twin, median over seeds"
_SIZE = (470, 420)
_CUT = 5  # the first fifth of a run may leave the picture


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
    """Validation loss by step and by training clock, a line a run, a colour an arm.

    By arithmetic too where an arm has more of it a step: otherwise that is the picture by steps.
    """
    alt = altair()
    compare = comparison.protocol.compare
    larger = compare.wider is not None or compare.deeper is not None
    axes = {
        "By steps": ("optimiser steps", _by_steps),
        **({"By arithmetic": ("FLOPs of training steps", _by_flops)} if larger else {}),
        "By training clock": ("seconds of training steps, no evaluations", _by_clock),
    }
    about = ["best validation loss so far, nats a target", _GOAL]
    parts = [
        panel(title, about, [_curve(comparison, axis, spent)])
        for title, (axis, spent) in axes.items()
    ]
    title = printable(f"{comparison.protocol.run.preset}: sparse against dense", 100)
    return alt.hconcat(*parts, spacing=44).properties(title=alt.Title(title, fontSize=24))


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
        "y": alt.Y("ratio:Q", title=None, scale=alt.Scale(domain=_around(points))),
        "color": _colour(alt, tuple(_MEASURES), (ORANGE, BLUE), "measure:N"),
    }
    even = alt.Chart(alt.Data(values=[{"ratio": 1}])).mark_rule(strokeDash=[6, 4], color=FAINT)
    line = alt.Chart(alt.Data(values=medians)).mark_line(strokeWidth=2.5).encode(**encoding)
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=80, opacity=1)
    drawn = alt.layer(even.encode(y=encoding["y"]), line, dots.encode(**encoding))
    return panel(
        "Speed-up over the dense twin",
        [
            "to its final quality; dashed: no faster",
            "a point a seed that got there, a median line",
        ],
        [drawn.properties(width=620, height=_SIZE[1])],
    )


def _around(points: Sequence[Mapping[str, Any]]) -> list[float]:
    """From a little below the least speed-up, or 1, to a little above the largest."""
    ratios = [point["ratio"] for point in points]
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    room = max(high - low, 0.1)
    return [low - 0.06 * room, high + 0.06 * room]


def _by_experts(comparison: Comparison) -> list[tuple[int, PairResult]]:
    """Expert counts and their pairs with the dense twin, without the decayed arms."""
    names = {f"experts-{count}": count for count in comparison.protocol.compare.experts}
    return sorted(
        (names[pair.arm], pair)
        for pair in comparison.pairs
        if pair.baseline == DENSE and pair.arm in names
    )


def _curve(comparison: Comparison, title: str, spent: Spent) -> Chart:
    alt = altair()
    rows = [row for result in comparison.arms for row in _rows(result, spent)]
    colours = _colours(comparison)
    y = alt.Y(
        "loss:Q",
        title=None,
        scale=alt.Scale(domain=_domain(comparison), nice=False),
        axis=alt.Axis(tickCount=7, domain=False),
    )
    x = alt.X(
        "spent:Q",
        title=title,
        scale=alt.Scale(zero=True, nice=False),
        axis=alt.Axis(grid=False, tickCount=6, format="~s" if spent is _by_flops else ",~r"),
    )
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(x=x, y=y, color=_colour(alt, list(colours), list(colours.values()), "arm:N"))
        .encode(detail="seed:N")
    )
    goal = comparison.arm(DENSE).loss.median
    goals = [] if goal is None else [{"loss": goal}]
    rule = alt.Chart(alt.Data(values=goals)).mark_rule(strokeDash=[6, 4], color=FAINT, clip=True)
    drawn = alt.layer(rule.encode(y=y), lines)
    return drawn.properties(width=_SIZE[0], height=_SIZE[1])


def _colours(comparison: Comparison) -> dict[str, str]:
    """A colour for each arm, in the order of the legend."""
    counts = sorted({result.arm.num_experts for result in comparison.arms} - {0})
    last = len(_SPARSE) - 1
    ramp = {
        f"experts-{count}": _SPARSE[round(last * place / (len(counts) - 1))]
        for place, count in enumerate(counts)
        if len(counts) > 1
    }
    names = [result.arm.name for result in comparison.arms]
    single = {name: ORANGE if "decay" not in name else _DECAYED for name in names}
    return {name: {**single, **ramp, **_DENSE}[name] for name in names}


def _colour(alt: Any, names: Sequence[str], colours: Sequence[str], field: str) -> Any:
    return alt.Color(
        field,
        scale=alt.Scale(domain=list(names), range=list(colours)),
        legend=alt.Legend(orient="top", title=None, symbolStrokeWidth=3, offset=8, columns=4),
    )


def _by_steps(result: ArmResult, track: Track) -> tuple[float, ...]:
    return tuple(map(float, track.steps))


def _by_flops(result: ArmResult, track: Track) -> tuple[float, ...]:
    return track.flops(result.arm.step_flops)


def _by_clock(result: ArmResult, track: Track) -> tuple[float, ...]:
    return track.seconds


def _rows(result: ArmResult, spent: Spent) -> list[dict[str, Any]]:
    return [
        {"spent": at, "loss": loss, "arm": result.arm.name, "seed": seed.seed}
        for seed, track in zip(result.seeds, result.tracks, strict=True)
        if track is not None
        for at, loss in zip(spent(result, track), running_minimum(track.losses), strict=True)
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
