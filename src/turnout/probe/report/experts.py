"""What each expert reads, as blocks of the report."""

import math
from typing import Any, Final

import numpy as np

from turnout.probe.characters import CLASSES
from turnout.probe.examples import Example
from turnout.probe.expert_map import shown_layers, sorted_experts
from turnout.probe.information import lift
from turnout.probe.reading import ExpertReading, LayerReading, Reading, Typical
from turnout.probe.report.blocks import Block, chart, group, heading, text
from turnout.probe.report.picture import HEAT, Key, Picture, named, specification
from turnout.probe.report.text import line
from turnout.probe.style import altair

MOST_EXPERTS: Final = 96
_LIMIT = 3.0  # colours end at 8 times as often, and as rarely, as average
_TOKENS, _CONTEXTS, _CLASSES = 8, 4, 3
_MARKED_LIFT = 1.2
KEYS: Final = (
    Key("an eighth or less", "@h0", "bar"),
    Key("half", "@h1", "bar"),
    Key("as often as average", "@h2", "bar"),
    Key("twice", "@h3", "bar"),
    Key("8 times or more", "@h4", "bar"),
)


def expert_blocks(reading: Reading) -> list[Block]:
    """A heat map of classes and a card an expert, for the layers that there is room for."""
    layers = shown_layers(reading, MOST_EXPERTS)
    if not layers:
        return [text("This model is dense: it has no experts.")]
    blocks: list[Block] = [
        text(
            f"The newest checkpoint read {reading.tokens:,} tokens of held-out text. An expert is "
            "described by what it was given more often than the other experts of its layer: "
            "kinds of characters, single tokens, and runs of four of which it served the last. In "
            "the lines of text the token in question stands out, and everything shaded went "
            "to the same expert."
        )
    ]
    if len(layers) < len(reading.layers):
        blocks.append(
            text(
                f"{len(layers)} of {len(reading.layers)} sparse layers are shown, those whose "
                "experts differ most."
            )
        )
    for index, layer in enumerate(layers):
        blocks += _layer(index, layer)
    return blocks


def _layer(index: int, layer: LayerReading) -> list[Block]:
    by_class, by_token = layer.class_information, layer.token_information
    busiest = sorted(layer.experts, key=lambda expert: -expert.assigned)[:MOST_EXPERTS]
    chosen = [expert for expert in sorted_experts(layer) if expert in busiest]
    some = (
        f", the busiest {len(chosen)} of {len(layer.experts)}"
        if len(chosen) < len(layer.experts)
        else ""
    )
    return [
        heading(f"{line(layer.name)}{some}"),
        text(
            f"A token tells {by_token.bits:.2f} of the {layer.expert_entropy:.2f} bits of its "
            f"expert (by chance {by_token.chance:.2f}), the kind of its character "
            f"{by_class.bits:.2f} (by chance {by_class.chance:.2f})."
        ),
        group([chart(_map(index, layer, chosen))], 1),
        {"type": "experts", "items": [_card(layer, expert) for expert in chosen]},
    ]


def _map(index: int, layer: LayerReading, chosen: list[ExpertReading]) -> Picture:
    alt = altair()
    counts = layer.counts()
    lifts = lift(counts)
    classes = np.flatnonzero(counts.sum(0)).tolist()
    names = [CLASSES[each].name for each in classes]
    order = [str(expert.expert) for expert in chosen]
    cells = [
        (str(expert.expert), CLASSES[each].name, float(lifts[expert.expert, each]))
        for expert in chosen
        for each in classes
    ]
    cells = [cell for cell in cells if not math.isnan(cell[2])]
    x = alt.X(
        "class:N",
        sort=names,
        scale=alt.Scale(domain=names, padding=0),
        axis=alt.Axis(
            orient="top", labelAngle=-45, title=None, domain=False, ticks=False, labelOverlap=False
        ),
    )
    y = alt.Y(
        "expert:N",
        sort=order,
        scale=alt.Scale(domain=order, padding=0),
        axis=alt.Axis(title="expert", grid=False, labelOverlap=False),
    )
    colour = alt.Color(
        "level:Q",
        scale=alt.Scale(domain=[-_LIMIT, _LIMIT], range=list(HEAT), interpolate="rgb"),
    )
    told = [
        alt.Tooltip("expert:N"),
        alt.Tooltip("class:N", title="characters"),
        alt.Tooltip("lift:Q", format=".2f", title="times as often as average"),
    ]
    drawn = named("cells").mark_rect(stroke="@paper", strokeWidth=1.5)
    name = line(layer.name, 80)
    return Picture(
        f"reads-{index}",
        f"Kinds of characters by expert of {name}",
        "How much more often than the average token of the layer an expert's token is of a kind.",
        f"Heat map of {len(chosen)} experts of {name} and {len(names)} kinds of characters; the "
        "cards below say the same in words.",
        specification(drawn.encode(x=x, y=y, color=colour, tooltip=told)),
        {
            "cells": {
                "expert": [cell[0] for cell in cells],
                "class": [cell[1] for cell in cells],
                "lift": [round(cell[2], 3) for cell in cells],
                "level": [round(_level(cell[2]), 3) for cell in cells],
            }
        },
        KEYS,
        over_time=False,
        height=(22 if len(chosen) <= 32 else 16) * len(chosen) + 70,
    )


def _level(value: float) -> float:
    return min(max(math.log2(value), -_LIMIT), _LIMIT) if value > 0 else -_LIMIT


def _card(layer: LayerReading, expert: ExpertReading) -> dict[str, Any]:
    return {
        "expert": expert.expert,
        "share": expert.load,
        "even": 1 / len(layer.experts),
        "assigned": expert.assigned,
        "classes": _typical_classes(layer, expert),
        "tokens": [_chip(each) for each in expert.tokens[:_TOKENS]],
        "contexts": [_chip(each) for each in expert.contexts[:_CONTEXTS]],
        "examples": [_example(each) for each in expert.examples],
    }


def _typical_classes(layer: LayerReading, expert: ExpertReading) -> list[dict[str, Any]]:
    """The kinds that are most of what sets the expert apart."""
    counts = layer.counts()
    lifts = np.nan_to_num(lift(counts)[expert.expert])
    share = counts[expert.expert] / max(expert.assigned, 1)
    weight = np.where(lifts > _MARKED_LIFT, share * np.log2(np.maximum(lifts, 1e-9)), 0)
    best = [each for each in np.argsort(-weight)[:_CLASSES].tolist() if weight[each] > 0]
    return [
        {"name": CLASSES[each].name, "lift": float(lifts[each]), "share": float(share[each])}
        for each in best
    ]


def _chip(typical: Typical) -> dict[str, Any]:
    return {
        "text": typical.text.replace(" ", "·"),
        "lift": typical.lift,
        "count": typical.count,
    }


def _example(example: Example) -> dict[str, Any]:
    pieces = [(_inline(piece.text), piece.kind) for piece in example.pieces]
    return {"typical": example.typical, "pieces": pieces}


def _inline(text_: str) -> str:
    return line(text_.replace("\n", "⏎"), 400).replace("\\t", "⇥")
