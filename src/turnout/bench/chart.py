"""The ratios of a result as a picture: a bar a way, whiskers its quartiles, a rule at 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turnout.bench.report import figure
from turnout.bench.suite import Result, Row
from turnout.config.errors import UserError
from turnout.probe.characters import printable
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, PALE, Chart, altair, panel, save

_COLOURS = (ORANGE, BLUE, PALE, "#dd7f3d", "#5f9bd6", FAINT, "#8457a6", INK)
_WIDTH, _BAR = 620, 22
_SILENT = frozenset({"mode", "largest load", "C of others", "compiled"})
_WORDS = 46  # characters of a label


def draw(result: Result, path: Path) -> Path:
    """Writes the picture as PNG; returns ``path``.

    Raises:
        UserError: altair is not installed, or the result has no ratios.
    """
    return save(chart(result), path)


def chart(result: Result) -> Chart:
    """A panel for every mode and base, the time of each other way over that of the base.

    Raises:
        UserError: altair is not installed, or the result has no ratios.
    """
    alt = altair()
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        if len(row.seconds) > 1:
            mode = str(row.facts.get("mode", row.suite))
            groups.setdefault((mode, row.bases[0]), []).append(row)
    if not groups:
        raise UserError("a chart needs a contest of two ways; nothing was timed against another")
    panels = [_panel(mode, base, rows) for (mode, base), rows in groups.items()]
    title = printable(f"turnout bench {result.suite}", 80)
    return alt.vconcat(*panels, spacing=30).properties(title=alt.Title(title, fontSize=24))


def _panel(mode: str, base: str, rows: Sequence[Row]) -> Chart:
    alt = altair()
    bars = [bar for row in rows for bar in _bars(row, base)]
    ways = list(dict.fromkeys(bar["way"] for bar in bars))
    most = max([1.0, *(bar["high"] for bar in bars)])
    y = alt.Y(
        "label:N",
        title=None,
        sort=None,
        axis=alt.Axis(domain=False, ticks=False, labelLimit=420, labelPadding=8),
        scale=alt.Scale(paddingInner=0.25),
    )
    x = alt.X(
        "ratio:Q",
        title=f"time over {base}",
        scale=alt.Scale(domain=[0, 1.12 * most], nice=False),
        axis=alt.Axis(tickCount=6),
    )
    colour = alt.Color(
        "way:N",
        scale=alt.Scale(domain=ways, range=[_COLOURS[n % len(_COLOURS)] for n in range(len(ways))]),
        legend=alt.Legend(orient="top", title=None, columns=4, symbolType="square"),
    )
    data = alt.Chart(alt.Data(values=bars)).encode(y=y)
    drawn = alt.layer(
        data.mark_bar(height=_BAR - 8).encode(x=x, color=colour),
        data.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q"),
        data.mark_text(align="left", dx=6, color=INK, fontSize=12).encode(
            x="high:Q", text="text:N"
        ),
        alt.Chart(alt.Data(values=[{"ratio": 1}]))
        .mark_rule(strokeDash=[6, 4], color=INK)
        .encode(x=x),
    )
    about = ["shorter is faster; whiskers are quartiles over the repeats, dashed is as fast"]
    return panel(mode, about, [drawn.properties(width=_WIDTH, height=_BAR * len(bars))])


def _bars(row: Row, base: str) -> list[dict[str, Any]]:
    """A bar for every way but the base; only its contest's first has the contest's words."""
    where = ", ".join(
        figure(value) if isinstance(value, str) else f"{name} {figure(value)}"
        for name, value in row.facts.items()
        if name not in _SILENT
    )
    found = []
    for way in row.seconds:
        if way == base:
            continue
        ratio = row.times.ratio(way, base)
        found.append(
            {
                "label": f"{printable(where, _WORDS)} · {printable(way, _WORDS)}",
                "way": printable(way, _WORDS),
                "ratio": ratio.median,
                "low": ratio.low,
                "high": ratio.high,
                "text": figure(ratio.median),
            }
        )
    return found
