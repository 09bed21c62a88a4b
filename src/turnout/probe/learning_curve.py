"""Loss against steps, beside what needs no model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from turnout.probe.characters import printable
from turnout.probe.curve import Curve, Point
from turnout.probe.style import BLUE, FAINT, ORANGE, PALE, QUIET, SIZE, Chart, altair, panel

MOST_POINTS = 2000
_SMOOTHED = 40  # a mean covers this part of the run
_NARROWEST = 5
_LETTER = 7.5  # mean width of a letter


def learning_curve(
    curve: Curve,
    baselines: Mapping[str, float],
    unit: str = "bits per byte",
    size: tuple[int, int] = (520, 440),
) -> Chart:
    """Training batches (faint, and their running mean), held-out text, and a rule a baseline.

    The top of the axis leaves out the first steps, where a fresh model does worse than any of
    the baselines.

    Args:
        baselines: names and their bits, on the same held-out text; may be empty.
        unit: what the vertical axis measures.
        size: width and height.
    """
    alt = altair()
    width = max(len(curve.training) // _SMOOTHED, _NARROWEST) // 2 * 2 + 1
    lines = {
        "training batch": curve.training,
        f"mean of {width} batches": curve.smoothed(width),
        "held-out text": curve.validation,
    }
    names = list(lines)
    frame = _frame(curve, baselines, size)
    x = alt.X(
        "step:Q",
        title="optimiser steps",
        scale=alt.Scale(nice=False, zero=True),
        axis=alt.Axis(grid=False, tickCount=6),
    )
    y = alt.Y(
        "bits:Q", title=None, scale=_scale(alt, frame), axis=alt.Axis(tickCount=7, domain=False)
    )
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=names, range=[PALE, BLUE, ORANGE]),
        legend=alt.Legend(orient="top", title=None, symbolStrokeWidth=3, offset=8),
    )
    batches, means, held_out = (
        alt.Chart(_rows(alt, name, points)).encode(x=x, y=y, color=colour)
        for name, points in lines.items()
    )
    rules, names_of_rules = _rules(alt, curve, baselines, frame)
    layers = [
        batches.mark_line(strokeWidth=1, clip=True),
        *rules,
        means.mark_line(strokeWidth=2.5, clip=True),
        held_out.mark_line(strokeWidth=1.2, strokeDash=[2, 3]),
        held_out.mark_point(filled=True, size=70, opacity=1),
        *names_of_rules,
    ]
    drawn = alt.layer(*layers).properties(width=size[0], height=size[1])
    note = "dashed: models that only count, on the same held-out text"
    notes = [f"{unit}; lower is better", note if baselines else "held-out text is not trained on"]
    return panel("Learning curve", notes, [drawn])


@dataclass(frozen=True)
class Frame:
    """The part of the plane that is drawn: bits from ``low`` to ``high``, steps from 0."""

    low: float
    high: float
    steps: int
    size: tuple[int, int]


def _frame(curve: Curve, baselines: Mapping[str, float], size: tuple[int, int]) -> Frame:
    """From a little below the best to a little above the worst baseline."""
    known = [*baselines.values(), *(point.bits for point in curve.validation)]
    means = [point.bits for point in curve.smoothed(_NARROWEST) or curve.training]
    low = min([*known, *means], default=0.0)
    # Without baselines the first tenth of the run may leave the picture.
    high = max([*known, *means[len(means) // 10 :]], default=1.0)
    room = max(high - low, 0.1)
    steps = max((p.step for p in (*curve.training, *curve.validation)), default=1)
    return Frame(max(low - 0.12 * room, 0.0), high + 0.14 * room, steps, size)


def _rules(
    alt: Any, curve: Curve, baselines: Mapping[str, float], frame: Frame
) -> tuple[list[Chart], list[Chart]]:
    """A rule a baseline, and its name where the curve is not (legible over it all the same)."""
    rules, names = [], []
    scale = _scale(alt, frame)
    for name, bits in baselines.items():
        label = f"{printable(name)}: {bits:.2f}"
        base = alt.Chart(alt.Data(values=[{"bits": bits, "label": label}]))
        base = base.encode(y=alt.Y("bits:Q", scale=scale))
        side, above = corner(curve, bits, len(label), frame)
        place = {
            "align": side,
            "dx": 4 if side == "left" else 0,
            "baseline": "bottom" if above else "top",
            "dy": -5 if above else 6,
        }
        halo = base.mark_text(**place, fontSize=SIZE, stroke="white", strokeWidth=5)
        text = base.mark_text(**place, fontSize=SIZE, color=QUIET)
        x = alt.value(0) if side == "left" else alt.value("width")
        rules.append(base.mark_rule(strokeDash=[6, 4], color=FAINT, strokeWidth=1.5))
        names += [mark.encode(x=x, text="label:N") for mark in (halo, text)]
    return rules, names


def corner(curve: Curve, bits: float, letters: int, frame: Frame) -> tuple[str, bool]:
    """Where a rule's name hides least of the curve: its side, and whether above the rule."""
    wide = frame.steps * min(letters * _LETTER / frame.size[0], 1)
    tall = (frame.high - frame.low) * 2 * SIZE / frame.size[1]

    def hidden(place: tuple[str, bool]) -> int:
        side, above = place
        left = 0.0 if side == "left" else frame.steps - wide
        bottom = bits if above else bits - tall
        points = (*curve.smoothed(_NARROWEST), *curve.validation)
        return sum(
            left <= p.step <= left + wide and bottom <= p.bits <= bottom + tall for p in points
        )

    return min((("right", True), ("left", False), ("right", False), ("left", True)), key=hidden)


def _scale(alt: Any, frame: Frame) -> Any:
    return alt.Scale(domain=[frame.low, frame.high], nice=False)


def _rows(alt: Any, series: str, points: Iterable[Point]) -> Any:
    """Rows of a series, thinned out to what a picture can show."""
    given = tuple(points)
    thin = given[:: -(-len(given) // MOST_POINTS)] if given else given
    return alt.Data(values=[{"step": p.step, "bits": p.bits, "series": series} for p in thin])
