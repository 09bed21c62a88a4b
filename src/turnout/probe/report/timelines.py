"""The charts of a run over time: load, routing by layer, optimisation."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from turnout.probe.report.picture import HEAT, Key, Picture, named, ramp, specification
from turnout.probe.report.records import History, LayerHistory
from turnout.probe.report.text import line
from turnout.probe.report.thin import envelope, smoothed
from turnout.probe.report.views import columns, marked, x_axis
from turnout.probe.style import altair

MOST_CELLS: Final = 24_000
_MOST_SPANS, _LEAST_SPANS = 120, 12
_LIMIT = 3.0  # colours end at 8 times the even share, and at an eighth of it


def loads(history: History) -> tuple[Picture, ...]:
    """For every layer: experts down, time across, coloured by their share of the assignments."""
    layers = {name: each for name, each in history.layers.items() if each.loads.spans(1)}
    rows = max(sum(layer.loads.experts for layer in layers.values()), 1)
    most = min(max(MOST_CELLS // rows, _LEAST_SPANS), _MOST_SPANS)
    return tuple(
        _load(index, name, layer, most) for index, (name, layer) in enumerate(layers.items())
    )


def _load(index: int, name: str, layer: LayerHistory, most: int) -> Picture:
    alt = altair()
    spans = layer.loads.spans(most)
    experts = layer.loads.experts
    table = np.array([span.shares for span in spans]).reshape(len(spans), experts)
    with np.errstate(divide="ignore"):
        level = np.clip(np.log2(table * experts), -_LIMIT, _LIMIT)
    row = 18 if experts <= 12 else 9 if experts <= 32 else 3
    order = [str(expert) for expert in range(experts)]
    labels = order if experts <= 12 else order[:: max(experts // 8, 1)]
    axis = alt.Axis(title="expert", grid=False, values=labels, labelOverlap=False)
    cells = named("cells").mark_rect(clip=True)
    x = x_axis(alt)
    encoded = cells.encode(
        x=x,
        x2="x2:Q",
        y=alt.Y("expert:N", sort=order, scale=alt.Scale(domain=order, padding=0), axis=axis),
        color=alt.Color(
            "level:Q",
            scale=alt.Scale(domain=[-_LIMIT, _LIMIT], range=list(HEAT), interpolate="rgb"),
            legend=alt.Legend(
                title="share of the tokens, in even shares",
                values=[-3, -2, -1, 0, 1, 2, 3],
                labelExpr="datum.value < 0 ? '1/' + pow(2, -datum.value) : pow(2, datum.value)",
            ),
        ),
        tooltip=[
            alt.Tooltip("expert:N"),
            alt.Tooltip("share:Q", format=".1%", title="share of the tokens"),
            alt.Tooltip("step:Q", format=",", title="from step"),
            alt.Tooltip("last:Q", format=",", title="to step"),
        ],
    )
    final = table[-1] if len(table) else np.zeros(experts)
    safe = line(name, 80)
    return Picture(
        f"load-{index}",
        f"Load of {safe}",
        "",
        f"Heat map of each expert's share of the tokens of {safe} over training. At the end the "
        f"busiest of {experts} experts gets {final.max():.1%}, the idlest {final.min():.1%}; even "
        f"would be {1 / experts:.1%}.",
        specification(encoded),
        {
            "cells": {
                "step": np.repeat([span.first - 1 for span in spans], experts).tolist(),
                "step2": np.repeat([span.last for span in spans], experts).tolist(),
                "last": np.repeat([span.last for span in spans], experts).tolist(),
                "expert": order * len(spans),
                "share": table.reshape(-1).round(4).tolist(),
                "level": level.reshape(-1).round(2).tolist(),
            }
        },
        height=max(row * experts, 60),
    )


HEAT_KEY: Final = (
    Key("an eighth of an even share or less", "@h0", "bar"),
    Key("half", "@h1", "bar"),
    Key("even", "@h2", "bar"),
    Key("twice", "@h3", "bar"),
    Key("8 times or more", "@h4", "bar"),
)


def by_layer(history: History, column: str, title: str, note: str, form: str) -> Picture | None:
    """A line a layer of one of its scalars; None where no layer recorded it."""
    alt = altair()
    names = list(history.layers)
    lines = {
        name: smoothed(history.step, layer.scalars[column])
        for name, layer in history.layers.items()
    }
    lines = {
        name: found if len(found) else envelope(history.step, history.layers[name].scalars[column])
        for name, found in lines.items()
    }
    if not any(map(len, lines.values())):
        return None
    shown = {name: line(name, 60) for name in names}
    colours = dict(zip(names, ramp(len(names)), strict=True))
    x, y = x_axis(alt), alt.Y("value:Q", title=None, axis=alt.Axis(format=form))
    y.scale = alt.Scale(zero=column == "dropped", nice=True)
    colour = alt.Color(
        "layer:N",
        scale=alt.Scale(domain=list(shown.values()), range=list(colours.values())),
        title=None,
    )
    drawn = named("lines").mark_line(strokeWidth=1.8, clip=True).encode(x=x, y=y, color=colour)
    told = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("value:Q", format=form, title=title.lower()),
    ]
    ends = ", ".join(
        f"{shown[name]} {points.value[-1]:.3g}" for name, points in lines.items() if len(points)
    )
    return Picture(
        f"layers-{column}",
        title,
        note,
        f"Line chart of {title.lower()} by layer over training. Last values: {line(ends, 600)}.",
        specification(alt.layer(drawn, marked(alt, "lines", x, y, told))),
        {
            "lines": {
                "step": [step for points in lines.values() for step in points.step],
                "value": [value for points in lines.values() for value in points.value],
                "layer": [shown[name] for name, points in lines.items() for _ in points.step],
            }
        },
        tuple(Key(shown[name], colours[name]) for name in names),
        height=190,
    )


def scalar(
    history: History, values: Sequence[float], name: str, title: str, note: str
) -> Picture | None:
    """One column, raw and as a running mean; None where nothing finite was recorded."""
    alt = altair()
    raw, mean = envelope(history.step, values), smoothed(history.step, values)
    if not len(raw):
        return None
    steady = name == "learning-rate"
    log = not steady and min(raw.value) > 0 and max(raw.value) > 20 * float(np.median(raw.value))
    x = x_axis(alt)
    y = alt.Y("value:Q", title=None, axis=alt.Axis(format="~s" if name == "speed" else ".4~g"))
    y.scale = alt.Scale(type="log") if log else alt.Scale(zero=steady, nice=True)
    told = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4g", title=title)]
    shown = raw if steady or not len(mean) else mean
    layers = [
        named("raw").mark_line(strokeWidth=1, color="@pale").encode(x=x, y=y),
        named("shown").mark_line(strokeWidth=1.8, color="@blue").encode(x=x, y=y),
        marked(alt, "shown", x, y, told),
    ]
    return Picture(
        name,
        title,
        f"{note}; logarithmic" if log else note,
        f"Line chart of {title.lower()} over training, from {raw.value[0]:.3g} to "
        f"{raw.value[-1]:.3g}; between {min(raw.value):.3g} and {max(raw.value):.3g}.",
        specification(alt.layer(*layers)),
        {"raw": columns(raw), "shown": columns(shown)},
        height=170,
    )
