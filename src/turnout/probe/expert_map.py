"""Which expert reads what, as a heat map."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout.probe.characters import CLASSES, printable
from turnout.probe.information import lift
from turnout.probe.reading import ExpertReading, LayerReading, Reading, Typical
from turnout.probe.style import (
    BLUE,
    INK,
    MONO,
    QUIET,
    RARE_TO_OFTEN,
    SIZE,
    Chart,
    altair,
    panel,
)

MOST_ROWS = 48
_LIMIT = 3  # colours end at 8 times as often, and as rarely, as average
_COLUMN = 27
_TOKENS, _CONTEXTS = 5, 3
_GAP = "\u00a0\u00a0"  # common spaces would collapse into one


@dataclass(frozen=True)
class _Layout:
    """The sizes that all layers of a picture share."""

    classes: tuple[int, ...]
    row: int
    rows: int


def shown_layers(reading: Reading, rows: int = MOST_ROWS) -> tuple[LayerReading, ...]:
    """The layers that fit into ``rows`` experts, at least one: those whose experts differ most.

    They keep their order; what differs is the mutual information of class and expert.
    """
    best = sorted(reading.layers, key=lambda layer: -layer.class_information.bits)
    most = 0
    while most < len(best) and sum(len(layer.experts) for layer in best[: most + 1]) <= rows:
        most += 1
    kept = {layer.name for layer in best[: max(most, 1)]}
    return tuple(layer for layer in reading.layers if layer.name in kept)


def sorted_experts(layer: LayerReading) -> tuple[ExpertReading, ...]:
    """Experts by the class that sets each apart most, then by how much; idle ones last.

    That class has the largest share of the expert's tokens times log2 of its lift: its part in
    the mutual information.
    """
    counts = layer.counts()
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.nan_to_num(counts * np.log2(lift(counts)), nan=0.0, neginf=0.0)
    parts = parts / np.maximum(counts.sum(1, keepdims=True), 1)

    def key(expert: ExpertReading) -> tuple[bool, int, float]:
        own = parts[expert.expert]
        return expert.assigned == 0, int(own.argmax()), -float(own.max())

    return tuple(sorted(layer.experts, key=key))


def expert_map(reading: Reading, rows: int = MOST_ROWS) -> Chart:
    """For every layer: experts down, classes of characters across, each expert's share of the
    tokens, and what is most typical of it.

    Args:
        rows: about how many experts, of all layers together, there is room for.
    """
    alt = altair()
    layers = shown_layers(reading, rows)
    counts = sum(layer.counts().sum(0) for layer in layers)
    classes = tuple(np.flatnonzero(counts).tolist())
    total = sum(min(len(layer.experts), rows) for layer in layers)
    layout = _Layout(classes, 26 if total <= 20 else 19 if total <= 32 else 16, rows)
    last = len(layers) - 1
    parts = [
        _layer(alt, layer, layout, first=index == 0, last=index == last)
        for index, layer in enumerate(layers)
    ]
    note = f" ({len(layers)} of {len(reading.layers)} sparse layers)"
    return panel(
        "Which expert reads what" + (note if len(layers) < len(reading.layers) else ""),
        [
            "colour: how much more often than average an expert reads a class of characters (log2)",
            "bars: its share of the tokens, dotted where all are equal; typical: by the same ratio",
        ],
        parts,
    )


def _layer(alt: Any, layer: LayerReading, layout: _Layout, *, first: bool, last: bool) -> Chart:
    busiest = sorted(layer.experts, key=lambda expert: -expert.assigned)[: layout.rows]
    chosen = [expert for expert in sorted_experts(layer) if expert in busiest]
    order = [str(expert.expert) for expert in chosen]
    height = layout.row * len(chosen)
    title = _title(alt, layer, len(chosen), offset=8 if first else 28)
    heat = _heat(alt, layer, chosen, layout, first=first, last=last).properties(title=title)
    loads = _loads(alt, chosen, order, even=1 / len(layer.experts))
    words = [
        _words(
            alt, chosen, order, "typical characters", [_tokens(expert) for expert in chosen], 150
        ),
        _words(
            alt,
            chosen,
            order,
            "with the 3 before (· is a space)",
            [_contexts(e) for e in chosen],
            185,
        ),
    ]
    parts = [part.properties(height=height) for part in (heat, loads, *words)]
    # Flush: the slanting names over the first layer must not push its columns aside.
    return alt.hconcat(*parts, spacing=18, bounds="flush").resolve_scale(color="independent")


def _title(alt: Any, layer: LayerReading, shown: int, offset: int) -> Any:
    """Over the heat map; ``offset`` leaves room for the headings of its neighbours."""
    by_class, by_token = layer.class_information, layer.token_information
    some = "" if shown == len(layer.experts) else f", the busiest {shown} of {len(layer.experts)}"
    return alt.Title(
        f"{printable(layer.name)}{some}",
        subtitle=f"a character tells {by_token.bits:.2f} of the {layer.expert_entropy:.2f} bits of "
        f"its expert (by chance {by_token.chance:.2f}), its class {by_class.bits:.2f} "
        f"(by chance {by_class.chance:.2f})",
        fontSize=SIZE + 1,
        offset=offset,
        frame="group",
    )


def _y(alt: Any, order: list[str], title: str | None = None) -> Any:
    axis = alt.Axis(title=title, domain=False, ticks=False, labelPadding=6) if title else None
    return alt.Y("expert:N", sort=order, axis=axis)


def _heat(
    alt: Any,
    layer: LayerReading,
    chosen: list[ExpertReading],
    layout: _Layout,
    *,
    first: bool,
    last: bool,
) -> Chart:
    lifts = lift(layer.counts())
    rows = [
        {"expert": str(expert.expert), "class": CLASSES[c].name, "lift": _log2(value)}
        for expert in chosen
        for c in layout.classes
        if not math.isnan(value := float(lifts[expert.expert, c]))
    ]
    names = [CLASSES[c].name for c in layout.classes]
    axis = alt.Axis(
        orient="top", labelAngle=-45, title=None, domain=False, ticks=False, labels=first
    )
    legend = alt.Legend(
        orient="bottom",
        direction="horizontal",
        title=None,
        gradientLength=_COLUMN * len(names),
        gradientThickness=12,
        values=list(range(-_LIMIT, _LIMIT + 1)),
        labelExpr="datum.value < 0 ? '1/' + pow(2, -datum.value) : pow(2, datum.value) + ' times'",
        offset=10,
    )
    colour = alt.Color(
        "lift:Q",
        scale=alt.Scale(
            domain=[-_LIMIT, _LIMIT], range=list(RARE_TO_OFTEN), interpolate="rgb", clamp=True
        ),
        legend=legend if last else None,
    )
    chart = alt.Chart(alt.Data(values=rows)).mark_rect(stroke="white", strokeWidth=1.5)
    x = alt.X("class:N", sort=names, scale=alt.Scale(domain=names), axis=axis)
    encoded = chart.encode(x=x, y=_y(alt, [str(e.expert) for e in chosen], "expert"), color=colour)
    return encoded.properties(width=_COLUMN * len(names))


def _log2(value: float) -> float:
    return max(math.log2(value), -float(_LIMIT)) if value > 0 else -float(_LIMIT)


def _loads(alt: Any, chosen: list[ExpertReading], order: list[str], even: float) -> Chart:
    rows = [{"expert": str(e.expert), "load": e.load, "label": f"{e.load:.1%}"} for e in chosen]
    top = max([even, *(expert.load for expert in chosen)])
    x = alt.X("load:Q", axis=None, scale=alt.Scale(domain=[0, top * 1.85]))
    data = alt.Data(values=rows)
    base = alt.Chart(data).encode(y=_y(alt, order), x=x)
    figures = alt.Chart(data).mark_text(align="right", fontSize=SIZE - 1, color=INK)
    mean = alt.Chart(alt.Data(values=[{"load": even}])).mark_rule(color=QUIET, strokeDash=[2, 2])
    layers = alt.layer(
        base.mark_bar(color=BLUE, opacity=0.75, height={"band": 0.62}),
        mean.encode(x=x),
        figures.encode(y=_y(alt, order), x=alt.value("width"), text="label:N"),
    )
    return layers.properties(width=105, title=_heading(alt, "share of tokens"))


def _words(
    alt: Any,
    chosen: list[ExpertReading],
    order: list[str],
    heading: str,
    words: list[str],
    width: int,
) -> Chart:
    rows = [
        {"expert": str(expert.expert), "words": text}
        for expert, text in zip(chosen, words, strict=True)
    ]
    mark = alt.Chart(alt.Data(values=rows)).mark_text(
        align="left", font=MONO, fontSize=SIZE - 1, color=INK, limit=width
    )
    encoded = mark.encode(y=_y(alt, order), x=alt.value(0), text="words:N")
    return encoded.properties(width=width, title=_heading(alt, heading))


def _heading(alt: Any, text: str) -> Any:
    return alt.Title(text, fontSize=SIZE, fontWeight="normal", color=QUIET, offset=6)


def _tokens(expert: ExpertReading) -> str:
    """Characters alone: sentinels and the like have a column of the map."""
    return _GAP.join([_word(t) for t in expert.tokens if not t.special][:_TOKENS])


def _contexts(expert: ExpertReading) -> str:
    return _GAP.join(map(_word, expert.contexts[:_CONTEXTS]))


def _word(typical: Typical) -> str:
    return typical.text.replace(" ", "·")
