"""Loss against steps, beside what needs no model."""

from collections.abc import Iterable, Mapping
from typing import Any

from turnout.probe.characters import printable
from turnout.probe.curve import Curve, Point
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, PALE, QUIET, SIZE, Chart, altair

MOST_POINTS = 2000
_SMOOTHED = 40  # a mean covers this part of the run


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
    width = max(len(curve.training) // _SMOOTHED, 1) // 2 * 2 + 1
    lines = {
        "training batch": curve.training,
        f"mean of {width} batches": curve.smoothed(width),
        "held-out text": curve.validation,
    }
    names = list(lines)
    scale = _scale(alt, curve, baselines)
    x = alt.X("step:Q", title="optimiser steps", axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("bits:Q", title=unit, scale=scale, axis=alt.Axis(tickCount=7, domain=False))
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=names, range=[PALE, BLUE, ORANGE]),
        legend=alt.Legend(orient="top", title=None, symbolStrokeWidth=3, offset=8),
    )
    batches, means, held_out = (
        alt.Chart(_rows(alt, name, points)).encode(x=x, y=y, color=colour)
        for name, points in lines.items()
    )
    title = alt.Title("Learning curve", subtitle=f"{unit}, lower is better")
    layers = [
        batches.mark_line(strokeWidth=1, clip=True),
        *_rules(alt, baselines, scale),
        means.mark_line(strokeWidth=2.5, clip=True),
        held_out.mark_line(strokeWidth=1.2, strokeDash=[2, 3], clip=True),
        held_out.mark_point(filled=True, size=70, opacity=1, clip=True),
        *_last(alt, curve.validation, x, y),
    ]
    return alt.layer(*layers).properties(width=size[0], height=size[1], title=title)


def _scale(alt: Any, curve: Curve, baselines: Mapping[str, float]) -> Any:
    """From a little below the best to a little above the worst baseline."""
    known = [*baselines.values(), *(point.bits for point in curve.validation)]
    means = [point.bits for point in curve.smoothed(9)]
    low = min([*known, *means])
    # Without baselines the first tenth of the run may leave the picture.
    high = max([*known, *means[len(means) // 10 :]])
    room = max(high - low, 0.1)
    return alt.Scale(domain=[max(low - 0.12 * room, 0), high + 0.14 * room], nice=False)


def _rules(alt: Any, baselines: Mapping[str, float], scale: Any) -> list[Chart]:
    rows = [
        {"bits": bits, "label": f"{printable(name)}: {bits:.2f}"}
        for name, bits in baselines.items()
    ]
    if not rows:
        return []
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("bits:Q", scale=scale))
    text = base.mark_text(align="right", baseline="bottom", dy=-4, fontSize=SIZE, color=QUIET)
    return [
        base.mark_rule(strokeDash=[6, 4], color=FAINT, strokeWidth=1.5),
        text.encode(x=alt.value("width"), text="label:N"),
    ]


def _last(alt: Any, points: tuple[Point, ...], x: Any, y: Any) -> list[Chart]:
    """The figure that the run ended with, under its point."""
    rows = [{"step": p.step, "bits": p.bits, "label": f"{p.bits:.2f}"} for p in points[-1:]]
    if not rows:
        return []
    mark = alt.Chart(alt.Data(values=rows)).mark_text(
        align="right", baseline="top", dy=9, dx=4, fontSize=SIZE + 1, fontWeight="bold", color=INK
    )
    return [mark.encode(x=x, y=y, text="label:N")]


def _rows(alt: Any, series: str, points: Iterable[Point]) -> Any:
    """Rows of a series, thinned out to what a picture can show."""
    given = tuple(points)
    thin = given[:: -(-len(given) // MOST_POINTS)] if given else given
    return alt.Data(values=[{"step": p.step, "bits": p.bits, "series": series} for p in thin])
