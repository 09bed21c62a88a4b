"""What the charts over time share: axes, tooltips, zooming."""

import math
from collections.abc import Sequence
from typing import Any, Final

from turnout.probe.report.picture import Columns, named, specification
from turnout.probe.report.thin import Line

STEPS: Final = "@axis"
ROOM: Final = 7  # pixels, so that no point of a curve is cut
_HIT = 240  # area of the invisible points that show a tooltip


def x_axis(alt: Any, room: int = 0) -> Any:
    """The horizontal axis of every chart over time; ``room``: pixels at its ends."""
    axis = alt.Axis(title=STEPS, format="~s")
    return alt.X("x:Q", axis=axis, scale=alt.Scale(nice=False, zero=True, padding=room))


def columns(points: Line, **constant: Any) -> Columns:
    """A line as the data of a chart."""
    return {"step": points.step, "value": points.value, **constant}


def marked(alt: Any, data: str, x: Any, y: Any, tooltip: list[Any]) -> Any:
    """Invisible points that show a tooltip."""
    points = named(data).mark_point(filled=True, size=_HIT, opacity=0, clip=True)
    return points.encode(x=x, y=y, tooltip=tooltip)


def zoomable(alt: Any, layers: list[Any]) -> dict[str, Any]:
    """The layers as one view whose horizontal axis can be zoomed and moved.

    Only with a key held down, so that a page scrolls as any other does.
    """
    zoom = alt.selection_interval(
        name="zoom",
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.ctrlKey]",
        translate="[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    )
    first = layers[0].properties(name="first").add_params(zoom)
    return specification(alt.layer(first, *layers[1:]))


def frame(mean: Line, held_out: Line, baselines: Sequence[float]) -> tuple[float, float]:
    """The bits that are drawn: a little below the best to a little above the worst baseline.

    The first steps, where a fresh model does worse than all of them, may leave the picture.
    """
    settled = mean.value[len(mean) // 20 :]
    known = [value for value in (*baselines, *held_out.value, *settled) if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    room = max(max(known) - min(known), 0.1)
    return max(min(known) - 0.08 * room, 0.0), max(known) + 0.1 * room
