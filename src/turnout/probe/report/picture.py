"""A chart of the report: a Vega-Lite specification with named colours, and its data as columns.

Colours are written ``@name`` and data stand apart, so that the page can draw the same chart in
both themes and over another horizontal axis, and the PNG writer over steps in the light one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from turnout.probe.style import FONT, altair

Columns = Mapping[str, Any]
"""Lists of one length by field; a value that is no list holds for every row."""

LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff",
    "ink": "#1f2933",
    "quiet": "#52606d",
    "faint": "#9aa5b1",
    "grid": "#e4e7eb",
    "pale": "#b7cfeb",
    "blue": "#1f5fa8",
    "orange": "#c2500f",
    "alarm": "#b3261e",
    **dict(
        zip(
            ("s0", "s1", "s2", "s3", "s4", "s5"),
            ("#1f5fa8", "#c2500f", "#1d7a5f", "#8b4a9c", "#8a6a00", "#a8324f"),
            strict=True,
        )
    ),
    **dict(
        zip(
            ("h0", "h1", "h2", "h3", "h4"),
            ("#2a5a94", "#84abd3", "#f5f5f3", "#eeaa79", "#b4470c"),
            strict=True,
        )
    ),
    "r0": "#1b3a6b",
    "r1": "#2f9e8f",
    "r2": "#c9a227",
}
DARK: Final[Mapping[str, str]] = {
    "paper": "#161b22",
    "ink": "#e6e9ec",
    "quiet": "#a9b4be",
    "faint": "#66717c",
    "grid": "#2b333c",
    "pale": "#34557c",
    "blue": "#6cabf0",
    "orange": "#f0935a",
    "alarm": "#f2867e",
    **dict(
        zip(
            ("s0", "s1", "s2", "s3", "s4", "s5"),
            ("#6cabf0", "#f0935a", "#5cc4a2", "#cb93da", "#d8b84a", "#ee8aa2"),
            strict=True,
        )
    ),
    **dict(
        zip(
            ("h0", "h1", "h2", "h3", "h4"),
            ("#5b9be0", "#34567d", "#262c33", "#80482a", "#f0883e"),
            strict=True,
        )
    ),
    "r0": "#7aa7ea",
    "r1": "#4cc0ae",
    "r2": "#e8cf6a",
}
SERIES: Final = ("@s0", "@s1", "@s2", "@s3", "@s4", "@s5")
HEAT: Final = ("@h0", "@h1", "@h2", "@h3", "@h4")
_SIZE: Final = 12


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend; ``mark`` is line, dash, point, bar or ramp."""

    name: str
    colour: str
    mark: str = "line"


@dataclass(frozen=True)
class Picture:
    """A chart.

    Attributes:
        name: for its file and its place in the page; letters, digits, hyphens.
        title, note: above it; the note says what is drawn, in which unit.
        summary: what a reader who cannot see it should know.
        spec: a view or a layer of views, without data, sizes and configuration.
        data: columns by the name under which ``spec`` reads them. A chart over time has ``step``
            (and ``step2``, where a mark has a width); its ``x`` (and ``x2``) are made from them.
        keys: the legend.
        over_time: whether the horizontal axis is time, which the reader may choose.
        height: of the drawing, in pixels.
    """

    name: str
    title: str
    note: str
    summary: str
    spec: Mapping[str, Any]
    data: Mapping[str, Columns]
    keys: tuple[Key, ...] = ()
    over_time: bool = True
    height: int = 220

    def to_dict(self) -> dict[str, Any]:
        """For the page's JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "summary": self.summary,
            "spec": self.spec,
            "data": self.data,
            "keys": [vars(key) for key in self.keys],
            "overTime": self.over_time,
            "height": self.height,
        }


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its title, and the value at some steps (between them it is linear).

    ``runs`` has a (steps, values) pair for each run of the page.
    """

    name: str
    title: str
    runs: tuple[tuple[Sequence[float], Sequence[float]], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For the page's JSON; an axis of no runs is the step itself."""
        return {"name": self.name, "title": self.title, "runs": self.runs}


def specification(chart: Any) -> dict[str, Any]:
    """An altair chart as a dictionary, without the defaults that altair adds."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)
    return spec


def ramp(count: int) -> tuple[str, ...]:
    """Colours of ``count`` ordered series: named ones, or points on a ramp between three."""
    if count <= len(SERIES):
        return SERIES[:count]
    return tuple(f"@ramp:{index / (count - 1):.3f}" for index in range(count))


def config() -> dict[str, Any]:
    """Fonts, lines and spacing of every chart of the report; colours by name."""
    text = {"labelColor": "@quiet", "titleColor": "@quiet"}
    return {
        "font": FONT,
        "background": None,
        "padding": {"left": 2, "right": 8, "top": 6, "bottom": 2},
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelFontSize": _SIZE,
            "titleFontSize": _SIZE,
            "titleFontWeight": "normal",
            "gridColor": "@grid",
            "domainColor": "@faint",
            "tickColor": "@faint",
            "labelLimit": 140,
            "labelOverlap": "greedy",
        },
        "axisX": {"grid": False, "tickCount": 6},
        "axisY": {"domain": False, "ticks": False, "tickCount": 5, "labelPadding": 6},
        "legend": {
            **text,
            "labelFontSize": _SIZE,
            "titleFontSize": _SIZE,
            "titleFontWeight": "normal",
            "titleLimit": 0,
            "labelLimit": 0,
            "orient": "top",
        },
        "title": {
            "anchor": "start",
            "color": "@ink",
            "subtitleColor": "@quiet",
            "fontSize": 15,
            "subtitleFontSize": _SIZE,
            "subtitlePadding": 4,
            "offset": 12,
            "limit": 0,
        },
    }


def named(data: str) -> Any:
    """An altair chart over the data of that name."""
    alt = altair()
    return alt.Chart(alt.NamedData(name=data))
