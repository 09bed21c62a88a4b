"""The report of several runs: their curves over each other, their figures side by side."""

import math
from collections.abc import Sequence

from turnout.config import io
from turnout.probe.report.axes import axes
from turnout.probe.report.blocks import Block, chart, group, section, table, text
from turnout.probe.report.facts import Facts
from turnout.probe.report.figures import (
    NOTHING,
    arithmetic,
    decimal,
    describe,
    duration,
    final_training,
    held_out,
    last,
    percent,
    seconds,
    short,
    tokens,
)
from turnout.probe.report.picture import Key, Picture, named, ramp
from turnout.probe.report.text import line
from turnout.probe.report.thin import Line, envelope, evaluated, smoothed
from turnout.probe.report.views import ROOM, frame, marked, x_axis, zoomable
from turnout.probe.style import altair

_MOST_VALUE = 60


def comparison_document(runs: Sequence[Facts]) -> Block:
    """The whole page as values for its script."""
    names = distinct_names(runs)
    sections = [
        section("figures", "Final figures", [_figures(runs, names), _models(runs, names)]),
        section(
            "learning",
            "Learning",
            [group([chart(_curves(runs, names, side)) for side in ("heldout", "training")], 1)],
        ),
        section("differences", "What differs in the configurations", [_differences(runs, names)]),
    ]
    notices = [
        *caveats(runs),
        *(f"{n}: {note}" for f, n in zip(runs, names, strict=True) for note in f.notices),
    ]
    return {
        "title": f"{len(runs)} runs compared",
        "kind": "Comparison of training runs",
        "summary": line(", ".join(names), 600),
        "notices": [line(notice, 500) for notice in notices],
        "axes": [axis.to_dict() for axis in axes(runs, arithmetic=True)],
        "sections": sections,
    }


def distinct_names(runs: Sequence[Facts]) -> tuple[str, ...]:
    """Folder names, with as many parents as it takes to tell them apart."""
    parts = [facts.folder.resolve().parts for facts in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return tuple(line("/".join(part[-depth:]), 80) for part in parts)


def caveats(runs: Sequence[Facts]) -> list[str]:
    """Why figures of these runs may not be comparable; empty when nothing speaks against it."""
    found = []
    texts = {facts.text for facts in runs}
    if "" in texts:
        found.append("Not every run says what text it was trained on: they may differ.")
    elif len(texts) > 1:
        found.append(
            f"The runs were trained on {len(texts)} different texts: their losses are not of the "
            "same held-out documents."
        )
    if len({facts.unit for facts in runs}) > 1:
        found.append("The runs are measured in different units: bits per byte of different parts.")
    known = [facts.config for facts in runs if facts.config is not None]
    for name, values in (
        ("share of held-out text", {config.data.validation_share for config in known}),
        ("number of held-out rows", {config.train.eval_rows for config in known}),
    ):
        if len(values) > 1:
            found.append(f"The {name} differs: held-out figures are over different rows.")
    return found


def _figures(runs: Sequence[Facts], names: Sequence[str]) -> Block:
    unit = runs[0].unit if len({facts.unit for facts in runs}) == 1 else "bits"
    header = [
        "run",
        f"{unit}, held out",
        "best held out",
        "training",
        "parameters",
        "active",
        "steps",
        "tokens",
        "FLOPs",
        "time",
        "dropped",
    ]
    rows = [_row(facts, name) for facts, name in zip(runs, names, strict=True)]
    return table("Final figures by run", header, rows, numbers=range(1, 11))


def _row(facts: Facts, name: str) -> list[str]:
    history, config = facts.history, facts.config
    bits = [record.get("bits", math.nan) for record in history.evaluations.values()]
    drops = [last(layer.scalars["dropped"]) for layer in history.layers.values()]
    return [
        name,
        decimal(held_out(facts)),
        decimal(min((value for value in bits if math.isfinite(value)), default=math.nan)),
        decimal(final_training(facts)),
        short(math.nan if config is None else config.model.num_params()),
        short(math.nan if config is None else config.model.num_active_params()),
        f"{history.last_step():,}",
        short(tokens(facts)),
        short(arithmetic(facts)),
        duration(seconds(facts)),
        percent(max(drops, default=math.nan)),
    ]


def _models(runs: Sequence[Facts], names: Sequence[str]) -> Block:
    known = [
        "unknown" if facts.config is None else f"{facts.config.preset}: {describe(facts.config)}"
        for facts in runs
    ]
    rows = [[name, line(words, 300)] for name, words in zip(names, known, strict=True)]
    return table("What was trained", ["run", "model"], rows)


def _curves(runs: Sequence[Facts], names: Sequence[str], side: str) -> Picture:
    """Held-out text as points and lines, or training as running means; a colour a run."""
    alt = altair()
    held = side == "heldout"
    lines = [evaluated(facts.history) if held else _training(facts) for facts in runs]
    colours = ramp(len(runs))
    settled = [frame(each, Line((), ()), ()) for each in lines if len(each)]
    low, high = min((s[0] for s in settled), default=0.0), max((s[1] for s in settled), default=1.0)
    x = x_axis(alt, ROOM)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[low, high], nice=False))
    colour = alt.Color(
        "run_name:N",
        scale=alt.Scale(domain=list(names), range=list(colours)),
        title=None,
    )
    told = [
        alt.Tooltip("run_name:N", title="run"),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("value:Q", format=".4f", title="bits"),
    ]
    layers = [named("lines").mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=colour)]
    if held:
        points = named("lines").mark_point(filled=True, size=42, opacity=1, clip=True)
        layers.append(points.encode(x=x, y=y, color=colour))
    ends = ", ".join(
        f"{name} {each.value[-1]:.3f}" for name, each in zip(names, lines, strict=True) if len(each)
    )
    title = "Held-out text" if held else "Training batches, running means"
    return Picture(
        side,
        title,
        "Bits; lower is better. The axis above tells which comparison this is: equal steps, "
        "tokens, arithmetic or time."
        if held
        else "Bits; lower is better.",
        f"Line chart by run: {title.lower()}. Last values: {line(ends, 800)}.",
        zoomable(alt, [*layers, marked(alt, "lines", x, y, told)]),
        {
            "lines": {
                "step": [step for each in lines for step in each.step],
                "value": [value for each in lines for value in each.value],
                "run": [index for index, each in enumerate(lines) for _ in each.step],
                "run_name": [names[index] for index, each in enumerate(lines) for _ in each.step],
            }
        },
        tuple(Key(name, colour) for name, colour in zip(names, colours, strict=True)),
        height=330,
    )


def _training(facts: Facts) -> Line:
    steps, bits = facts.history.step, facts.history.scalars["bits"]
    return smoothed(steps, bits) or envelope(steps, bits)


def _differences(runs: Sequence[Facts], names: Sequence[str]) -> Block:
    """A row for every field that is not the same in all runs."""
    tables = [
        {} if facts.config is None else dict(io.flat(io.to_dict(facts.config))) for facts in runs
    ]
    fields = list(dict.fromkeys(field for each in tables for field in each if field != "out"))
    rows = [
        [field, *(line(str(each.get(field, NOTHING)), _MOST_VALUE) for each in tables)]
        for field in fields
        if len({str(each.get(field)) for each in tables}) > 1
    ]
    if not rows:
        return text("Nothing: the runs have one configuration.")
    return table("Fields whose values differ", ["field", *names], rows)
