"""The four answers of a trace as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from turnout.config.errors import UserError
from turnout.probe.style import BLUE, FAINT, INK, ORANGE, PALE, Chart, altair, panel, save
from turnout.simulate.what_if.answers import Answers

_SIZE = (430, 300)
_PURPLE, _GREEN = "#8457a6", "#1d7a5f"
RANKS = "ranks that share out the experts"
Row = Mapping[str, Any]


def check(path: Path) -> None:
    """Raises UserError where no picture can go there: no altair, no such folder, another kind."""
    altair()
    if path.suffix != ".png":
        raise UserError(f"--picture {path}: must end in .png")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--picture {path}: its folder does not exist; make it, or name another")


def draw(answers: Answers, path: Path) -> Path:
    """Write the picture as PNG; returns ``path``."""
    return save(chart(answers), path)


def chart(answers: Answers) -> Chart:
    """Drops and stragglers above, placement and copies below."""
    alt = altair()
    first = answers.batches // 2
    above = alt.hconcat(_drops(answers), _stragglers(answers), spacing=50)
    below = alt.hconcat(_placements(answers), _copies(answers), spacing=50)
    title = alt.Title(
        f"{answers.preset}: what its routing would do elsewhere",
        subtitle=f"{answers.tokens:,} routed tokens in {answers.batches} micro-batches of "
        f"{answers.rows} rows; placement and copies are fitted on the first {first} and measured "
        "on the others",
        fontSize=22,
    )
    return alt.vconcat(above, below, spacing=36).properties(title=title)


def _drops(answers: Answers) -> Chart:
    found = answers.drops
    rows = [
        {"x": factor, "y": share, "line": "one layer", "of": layer.layer}
        for layer in found.layers
        for factor, share in zip(found.factors, layer.dropped, strict=True)
    ]
    for name, shares in (("dropped", found.whole.dropped), ("slots left empty", found.whole.empty)):
        rows += [
            {"x": factor, "y": share, "line": name, "of": name}
            for factor, share in zip(found.factors, shares, strict=True)
        ]
    colours = {"dropped": ORANGE, "one layer": "#eeaa79", "slots left empty": BLUE}
    needed = found.whole.needed[0]
    said = "no factor drops 1% or less" if needed is None else f"1% or less from {needed:g} on"
    return _panel(
        "Drops against capacity",
        ["share of assignments dropped, of slots left empty", said],
        rows,
        colours,
        x=("capacity factor", _marked(answers.factor), found.factors),
        y=(".0%", [0.0, 1.0]),
    )


def _stragglers(answers: Answers) -> Chart:
    found = answers.stragglers
    lines = {"the step": found.step}
    if found.bounded_step:
        lines[f"the step, capacity {found.factor:g}"] = found.bounded_step
    rows = [
        {"x": ranks, "y": value, "line": "one layer", "of": layer}
        for layer, values in found.layers.items()
        for ranks, value in zip(found.ranks, values, strict=True)
    ]
    rows += _rows(lines, found.ranks)
    colours = {"one layer": PALE, **dict(zip(lines, (INK, BLUE), strict=False))}
    about = ["rows at the fullest rank over the mean, experts in order", "1: no rank waits"]
    return _panel("Stragglers", about, rows, colours, x=(RANKS, [], found.ranks))


def _placements(answers: Answers) -> Chart:
    found = answers.placements
    ranks = tuple(each.ranks for each in found)
    lines = {
        "in order": tuple(each.contiguous for each in found),
        "placed": tuple(each.better for each in found),
        "placed, where it was fitted": tuple(each.fitted for each in found),
        "no placement goes below": tuple(each.bound for each in found),
    }
    colours = dict(zip(lines, (INK, ORANGE, "#eeaa79", FAINT), strict=True))
    about = ["slow-down of the experts' compute by the fullest rank", "dropless"]
    rows = _rows(lines, ranks)
    return _panel("Placement", about, rows, colours, x=(RANKS, [], ranks))


def _copies(answers: Answers) -> Chart:
    alt = altair()
    found = answers.replicas
    spares = tuple(each.spare for each in found)
    lines = {
        "copies": tuple(each.slow_down for each in found),
        "copies, where they were fitted": tuple(each.fitted for each in found),
        "experts in order": tuple(answers.placed.contiguous for _ in found),
    }
    colours = dict(zip(lines, (_PURPLE, "#c9b3dc", INK), strict=True))
    labels = [
        {"x": each.spare, "y": each.slow_down, "text": f"+{each.bytes / 1e6:,.1f} MB"}
        for each in found
        if each.spare
    ]
    text = alt.Chart(alt.Data(values=labels)).mark_text(dy=-14, fontSize=13, color=_PURPLE)
    return _panel(
        f"Copies of the fullest experts on {answers.ranks} ranks",
        ["slow-down by the fullest rank, dropless", "MB: weights, gradients, optimiser of a rank"],
        _rows(lines, spares),
        colours,
        x=("spare places a rank", [], spares),
        over=text.encode(text="text:N"),
    )


def _rows(lines: Mapping[str, Sequence[float]], places: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"x": x, "y": y, "line": name, "of": name}
        for name, values in lines.items()
        for x, y in zip(places, values, strict=True)
    ]


def _marked(factor: float | None) -> list[float]:
    return [] if factor is None else [factor]


def _panel(
    title: str,
    about: list[str],
    rows: Sequence[Row],
    colours: Mapping[str, str],
    *,
    x: tuple[str, Sequence[float], Sequence[float | int]],
    y: tuple[str, list[float]] | None = None,
    over: Chart | None = None,
) -> Chart:
    """Lines over one axis.

    Args:
        rows: ``x`` and ``y`` of points, the ``line`` that their colour is of, and ``of``, what
            they are connected by.
        x: the axis' title, where a rule stands, and the values that are marked on it. Ranks stand
            evenly apart.
        over: a mark without places, drawn last.
        y: the format of the axis and its ends; from 1 on where they are slow-downs.
    """
    alt = altair()
    name, marks, values = x
    axis = alt.Axis(values=list(values), grid=False, labelAngle=0, format="~g")
    kind = "O" if name == RANKS else "Q"
    across = alt.X(f"x:{kind}", title=name, axis=axis)
    form, ends = (".2f", None) if y is None else y
    domain = [1.0, max(row["y"] for row in rows) * 1.01 + 0.02] if ends is None else ends
    up = alt.Y(
        "y:Q", title=None, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(format=form)
    )
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(orient="top", title=None, columns=2, symbolStrokeWidth=3),
    )
    drawn = alt.Chart(alt.Data(values=list(rows)))
    lines = drawn.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=40)).encode(
        across, up, colour, detail="of:N"
    )
    rule = alt.Chart(alt.Data(values=[{"x": mark} for mark in marks])).mark_rule(
        strokeDash=[6, 4], color=FAINT
    )
    layers = [
        *([rule.encode(x=across)] if marks else []),
        lines,
        *([over.encode(across, up)] if over else []),
    ]
    whole = alt.layer(*layers).properties(width=_SIZE[0], height=_SIZE[1])
    return panel(title, about, [whole])
