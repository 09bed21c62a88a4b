"""The pictures that a run ends with: altair charts, and PNG files of them."""

from collections.abc import Mapping

from turnout.probe.characters import printable
from turnout.probe.curve import Curve
from turnout.probe.expert_map import expert_map
from turnout.probe.learning_curve import learning_curve
from turnout.probe.reading import Reading
from turnout.probe.style import Chart, altair, available, save

__all__ = ["available", "expert_map", "learning_curve", "run_picture", "save"]


def run_picture(
    curve: Curve,
    baselines: Mapping[str, float],
    reading: Reading,
    title: str,
    subtitle: str,
    unit: str = "bits per byte",
) -> Chart:
    """The learning curve and, for a sparse model, which expert reads what, side by side.

    Args:
        baselines: names and bits of what needs no model.
        reading: of a dense model, which has no layer, gives the curve alone.
        title, subtitle: of the whole; control characters in them are escaped.
        unit: what the curve measures.
    """
    alt = altair()
    whole = alt.Title(
        printable(title, 100), subtitle=printable(subtitle, 180), fontSize=24, subtitleFontSize=15
    )
    if not reading.layers:
        parts = [learning_curve(curve, baselines, unit, (860, 440))]
    else:
        parts = [learning_curve(curve, baselines, unit, (440, 560)), expert_map(reading)]
    drawn = alt.hconcat(*parts, spacing=44)
    return drawn.resolve_scale(color="independent").properties(title=whole)
