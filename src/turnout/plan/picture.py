"""A picture, as SVG, of which rank holds which weights and which tokens.

Above, the five ways of the Switch paper (2101.03961, figure 9) on 16 cores; below, the layout of a
plan. A cell is a rank. Of the weights its colour says whose experts they are and the filled part
which slice of the hidden width; the strip below is its part of the dense weights. Of the tokens the
colour says which rows of the batch it computes.
"""

import colorsys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from turnout.plan.search import Layout

INK, QUIET, LINE, GREY = "#1f2933", "#52606d", "#9aa5b1", "#7b8794"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
CORES = 16
Length = float | int
SHOWN = 64  # ranks of the plan's own layout
_SIDE, _GAP, _MARGIN, _HEAD = 34, 3, 24, 16


@dataclass(frozen=True)
class Part:
    """A slice of something: the ``index``-th of ``of`` equal parts."""

    index: int = 0
    of: int = 1


@dataclass(frozen=True)
class Cell:
    """One rank: whose experts it has and which slice of them, its part of the dense weights, the
    rows it computes, and what is written into it."""

    expert: Part
    width: Part
    tokens: Part
    dense: Part | None = None
    text: str = ""


@dataclass(frozen=True)
class Strategy:
    """A way to lay a model over cores, a cell a core."""

    title: str
    cells: tuple[Cell, ...]


def strategies(cores: int = CORES) -> tuple[Strategy, ...]:
    """The five ways of the paper's section 5; ``cores`` is a square number. Of those with two
    axes the model axis is the square root."""
    model = round(cores**0.5)
    data = cores // model
    one = Part()
    return (
        Strategy("data", tuple(Cell(one, one, Part(i, cores)) for i in range(cores))),
        Strategy("model", tuple(Cell(one, Part(i, cores), one) for i in range(cores))),
        Strategy(
            "model and data",
            tuple(Cell(one, Part(i % model, model), Part(i // model, data)) for i in range(cores)),
        ),
        Strategy(
            "expert and data",
            tuple(Cell(Part(i, cores), one, Part(i, cores)) for i in range(cores)),
        ),
        Strategy(
            "expert, model and data",
            tuple(
                Cell(Part(i // model, data), Part(i % model, model), Part(i // model, data))
                for i in range(cores)
            ),
        ),
    )


def cells(layout: Layout, shown: int = SHOWN) -> tuple[Cell, ...]:
    """The first ranks of a layout: rank ``(d * expert + e) * tensor + t`` (``ParallelPlan``)."""
    plan, found = layout.plan, []
    for rank in range(min(plan.ranks, shown)):
        batch, tensor = divmod(rank, plan.tensor)
        found.append(
            Cell(
                expert=Part(batch % plan.expert, plan.expert),
                width=Part(tensor, plan.tensor),
                tokens=Part(batch, plan.batch_ranks),
                dense=Part(batch % plan.dense_shards, plan.dense_shards),
                text=str(rank),
            )
        )
    return tuple(found)


def draw(layout: Layout) -> str:
    """The whole picture."""
    columns = [_column(strategy) for strategy in strategies()]
    own = _own(layout)
    left, top, parts = float(_MARGIN), 92, [_heading(layout)]
    for title, grids, width, _ in columns:
        parts.append(_placed(left, top, [_text(0, 0, title, 15, INK, bold=True), *grids]))
        left += width + 40
    bottom = top + max(height for *_, height in columns) + 50
    parts.append(_placed(_MARGIN, bottom, own[0]))
    total = (max(left, own[1]) + _MARGIN, bottom + own[2] + _MARGIN)
    size = f'width="{total[0]:.0f}" height="{total[1]:.0f}"'
    view = f'viewBox="0 0 {total[0]:.0f} {total[1]:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="{FONT}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _heading(layout: Layout) -> str:
    title = f"{layout.config.preset} on {layout.plan.ranks:,} x {layout.device.name}"
    about = "A cell is a core. Five ways to lay a model over 16 of them; below, the plan's own."
    return _text(_MARGIN, 40, title, 22, INK, bold=True) + _text(_MARGIN, 64, about, 14, QUIET)


def _column(strategy: Strategy) -> tuple[str, list[str], Length, Length]:
    """Title, both grids one below the other, width and height."""
    across = round(len(strategy.cells) ** 0.5)
    side = across * (_SIDE + _GAP)
    grids = [
        _text(0, 24, "weights", 13, QUIET),
        _placed(0, 32, list(_grid(strategy.cells, across, _SIDE, _weights))),
        _text(0, side + 54, "tokens", 13, QUIET),
        _placed(0, side + 62, list(_grid(strategy.cells, across, _SIDE, _tokens))),
    ]
    return strategy.title, grids, max(side, 8.6 * len(strategy.title)), 2 * side + 62


def _own(layout: Layout) -> tuple[list[str], Length, Length]:
    """The layout of the plan: parts, width and height."""
    plan, found = layout.plan, cells(layout)
    across, big = min(8, len(found)), 52
    side = across * (big + _GAP)
    height = -(-len(found) // across) * (big + _GAP)
    which = "" if len(found) == plan.ranks else f", the first {len(found)} of {plan.ranks:,} ranks"
    lines = [
        f"the plan's own: data {plan.data}, expert {plan.expert}, tensor {plan.tensor}"
        f"{' with sequence' if plan.sequence else ''}, dense weights in {plan.dense_shards} "
        f"shards{which}",
        *_legend(layout),
    ]
    texts = [
        _text(
            0,
            22 * number,
            line,
            15 if number == 0 else 13,
            INK if number == 0 else QUIET,
            bold=number == 0,
        )
        for number, line in enumerate(lines)
    ]
    top = 22 * len(lines) + 12
    parts = [
        *texts,
        _text(0, top, "weights", 13, QUIET),
        _placed(0, top + 8, list(_grid(found, across, big, _weights))),
        _text(side + 40, top, "tokens", 13, QUIET),
        _placed(side + 40, top + 8, list(_grid(found, across, big, _tokens))),
    ]
    longest = max(len(line) for line in lines)
    return parts, max(2 * side + 40, 7.6 * longest), top + 8 + height


def _legend(layout: Layout) -> list[str]:
    plan, model = layout.plan, layout.config.model
    experts = 0 if model.moe is None else model.moe.num_experts
    has = f"{experts // plan.expert} of {experts} experts of each sparse layer" if experts else ""
    width = f"1/{plan.tensor} of heads and hidden width" if plan.tensor > 1 else "whole width"
    dense = (
        f"1/{plan.dense_shards} of the dense weights"
        if plan.dense_shards > 1
        else "all dense weights"
    )
    rows = layout.config.train.batch_rows // plan.batch_ranks
    weights = ", ".join(filter(None, (has, width)))
    return [
        f"weights: each rank {weights}; the dark part of the strip is {dense}",
        f"tokens: {rows} of {layout.config.train.batch_rows:,} rows a step on each"
        + (f", the same on {plan.tensor} ranks" if plan.tensor > 1 else ""),
    ]


def _grid(
    found: Sequence[Cell], across: int, side: int, fill: Callable[[Cell, int], Sequence[str]]
) -> Iterator[str]:
    for number, cell in enumerate(found):
        row, column = divmod(number, across)
        place = (column * (side + _GAP), row * (side + _GAP))
        yield _placed(*place, [*fill(cell, side), _frame(side), _label(cell, side)])


def _weights(cell: Cell, side: int) -> list[str]:
    """The slice of the hidden width that a rank has, of whose experts; its dense part below."""
    strip = 0 if cell.dense is None else max(7, side // 6)
    top = _HEAD if cell.text else 0
    colour = _colour(cell.expert)
    parts = [
        _rect(0, top, side, side - strip - top, colour, 0.16),
        _slice(cell.width, side, top, side - strip - top, colour),
    ]
    if cell.dense is not None:
        parts += [
            _rect(0, side - strip, side, strip, GREY, 0.2),
            _slice(cell.dense, side, side - strip, strip, INK),
        ]
    return parts


def _slice(part: Part, side: int, top: int, height: int, fill: str) -> str:
    """A part of the width, which is seen however small."""
    wide = max(side / part.of, 2.0)
    return _rect(min(side * part.index / part.of, side - wide), top, wide, height, fill, 1.0)


def _tokens(cell: Cell, side: int) -> list[str]:
    return [_rect(0, 0, side, side, _colour(cell.tokens), 1.0)]


def _label(cell: Cell, side: int) -> str:
    """The rank, on a ground of its own."""
    if not cell.text:
        return ""
    return _rect(0, 0, side, _HEAD, "white", 1.0) + _text(4, 12, cell.text, 12, INK)


def _colour(part: Part) -> str:
    """One of as many as there are parts. Up to 16 go round the circle; of more, each stands far
    from those before it, and colours come near each other only far apart."""
    if part.of == 1:
        return "#5f86b3"
    share = part.index / part.of if part.of <= CORES else part.index * 0.618034 % 1
    lightness = (0.46, 0.62, 0.54)[part.index % 3]
    red, green, blue = colorsys.hls_to_rgb(0.93 * share, lightness, 0.55)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _placed(x: Length, y: Length, parts: Sequence[str]) -> str:
    return f'<g transform="translate({x:.1f},{y:.1f})">{"".join(parts)}</g>'


def _frame(side: int) -> str:
    return f'<rect width="{side}" height="{side}" fill="none" stroke="{LINE}"/>'


def _rect(x: Length, y: Length, width: Length, height: Length, fill: str, opacity: float) -> str:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect {place} fill="{fill}" fill-opacity="{opacity}"/>'


def _text(x: Length, y: Length, text: str, size: int, fill: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}"'
    return f'<text {place} fill="{fill}"{weight}>{escape(text)}</text>'
