"""The report of one run as blocks: what was trained, how it went, what came of it."""

import math
from collections.abc import Mapping
from shlex import quote
from typing import Any

from turnout.config import io
from turnout.probe.report.axes import axes
from turnout.probe.report.blocks import Block, chart, code, figures, group, section, table, text
from turnout.probe.report.experts import expert_blocks
from turnout.probe.report.facts import Facts
from turnout.probe.report.figures import decimal, describe, percent, short, top_figures
from turnout.probe.report.learning import learning
from turnout.probe.report.picture import Picture
from turnout.probe.report.records import History
from turnout.probe.report.text import line, shown
from turnout.probe.report.timelines import HEAT_KEY, by_layer, loads, scalar

_MOST_CONFIG = 60_000
_MOST_ROWS = 400


def run_document(facts: Facts) -> Block:
    """The whole page as values for its script."""
    sections = [
        section("figures", "Final figures", [figures(top_figures(facts))]),
        section("learning", "Learning", _learning(facts)),
        section("events", "Events", _events(facts.history)),
        section("routing", "Routing", _routing(facts.history)),
        section("optimisation", "Optimisation", _optimisation(facts)),
        section("samples", "Samples", _samples(facts)),
        section("experts", "What each expert reads", _experts(facts)),
        section("setup", "Configuration and commands", _setup(facts)),
    ]
    preset = "" if facts.config is None else f"{facts.config.preset}: {describe(facts.config)}"
    trained = f" Trained on {facts.measured.data.summary.text()}." if facts.measured else ""
    return {
        "title": line(facts.name, 120),
        "kind": "Training run",
        "summary": line(f"{preset}.{trained}" if preset else "The configuration is unknown.", 900),
        "notices": [line(notice, 500) for notice in facts.notices],
        "axes": [axis.to_dict() for axis in axes([facts], arithmetic=False)],
        "sections": sections,
    }


def pictures(facts: Facts) -> tuple[Picture, ...]:
    """The charts over time that stand for themselves, for PNG files."""
    curve = _learning_picture(facts)
    first = () if curve is None else (curve,)
    history = facts.history
    return (*first, *loads(history), *_layer_lines(history), *_scalars(facts))


def _learning_picture(facts: Facts) -> Picture | None:
    bits: Mapping[str, float] = {} if facts.measured is None else facts.measured.bits
    return learning(facts.history, facts.unit, bits, facts.history.events)


def _learning(facts: Facts) -> list[Block]:
    curve = _learning_picture(facts)
    blocks: list[Block] = [
        text("No finite loss was recorded.") if curve is None else group([chart(curve)], 1)
    ]
    found = sorted(facts.history.evaluations.items())[-_MOST_ROWS:]
    if found:
        rows = [
            [
                f"{step:,}",
                decimal(record.get("loss", math.nan), 4),
                decimal(record.get("bits", math.nan), 4),
                percent(record.get("dropped", math.nan)),
                decimal(record.get("balance", math.nan), 2),
            ]
            for step, record in found
        ]
        header = ["step", "loss (nats a target)", facts.unit, "dropped", "largest over mean load"]
        blocks.append(
            table("Evaluations on held-out text", header, rows, numbers=range(5), folded=True)
        )
    return blocks


def _routing(history: History) -> list[Block]:
    if not history.layers:
        return [text("No sparse layer was recorded: a dense model.")]
    heat = loads(history)
    return [
        text(
            "Load: each expert's share of the tokens before capacity, relative to an even share. "
            "A band that stays blue is an expert that the router forgot."
        ),
        group([chart(each) for each in heat], 2, HEAT_KEY if heat else ()),
        group([chart(each) for each in _layer_lines(history)], 3),
    ]


def _layer_lines(history: History) -> list[Picture]:
    experts = sorted({layer.loads.experts for layer in history.layers.values()} - {0})
    undecided = ", ".join(f"{math.log(count):.2f} for {count} experts" for count in experts)
    known = f"; an undecided router has {undecided}" if undecided else ""
    found = (
        by_layer(
            history,
            "entropy",
            "Router entropy",
            f"Mean over tokens, in nats{known}.",
            ".2f",
        ),
        by_layer(
            history,
            "dropped",
            "Dropped",
            "Share of the assignments in training that found no slot.",
            ".1%",
        ),
        by_layer(
            history,
            "balance",
            "Balance",
            "Largest load over mean load: 1 is even, the number of experts is collapse.",
            ".2f",
        ),
    )
    return [picture for picture in found if picture is not None]


def _optimisation(facts: Facts) -> list[Block]:
    return [group([chart(each) for each in _scalars(facts)], 3)]


def _scalars(facts: Facts) -> list[Picture]:
    history = facts.history
    columns = [
        (history.scalars["gradient_norm"], "gradient-norm", "Gradient norm", "Before clipping"),
        (history.scalars["learning_rate"], "learning-rate", "Learning rate", "After the schedule"),
        (history.scalars["tokens_per_second"], "speed", "Speed", "Tokens a second, by step"),
        *(
            (history.terms[name], f"term-{name}", f"Loss term: {name}", "Unweighted")
            for name in _active_terms(facts)
        ),
    ]
    found = [scalar(history, *column) for column in columns]
    return [picture for picture in found if picture is not None]


def _active_terms(facts: Facts) -> list[str]:
    """Terms beside the language loss whose coefficient is not zero."""
    if facts.config is None:
        return []
    on = [
        name
        for name in facts.history.terms
        if name != "language" and getattr(facts.config.losses, name, False)
    ]
    return on if facts.history.layers else [name for name in on if name == "head_z"]


def _events(history: History) -> list[Block]:
    if not history.events:
        return [text("None: no step was skipped, and no alarm was raised.")]
    rows = [
        [f"{event.step:,}", line(event.name, 40), line(event.layer, 60), line(event.text, 500)]
        for event in history.events
    ]
    blocks = [table("Events by step", ["step", "event", "layer", "what"], rows, numbers=[0])]
    if history.more_events:
        blocks.append(text(f"And {history.more_events:,} more; metrics.jsonl has them all."))
    return blocks


def _samples(facts: Facts) -> list[Block]:
    if not facts.samples:
        return [text("None were kept: samples.json is not in the run's folder.")]
    items = [
        {
            "prompt": shown(sample.prompt),
            "text": shown(sample.text.removeprefix(sample.prompt)),
            "continued": sample.text.startswith(sample.prompt),
        }
        for sample in facts.samples
    ]
    return [{"type": "samples", "items": items}]


def _experts(facts: Facts) -> list[Block]:
    if facts.measured is None:
        return [text("Not read: that needs a checkpoint and the run's text.")]
    return expert_blocks(facts.measured.reading)


def _setup(facts: Facts) -> list[Block]:
    folder = line(quote(str(facts.folder)), 400)
    steps = facts.history.last_step()
    commands = [
        "# the same run again, from the configuration below saved as run.toml",
        "turnout train --config run.toml --out NEW_FOLDER",
        "# go on from the newest checkpoint",
        f"turnout train --resume {folder} --train.steps {2 * steps}",
        "# measure and use it",
        f"turnout eval {folder}",
        f"turnout generate {folder} --prompt '…'",
        "# draw this page again",
        f"turnout report {folder}",
    ]
    blocks = [code("Commands", "\n".join(commands))]
    blocks += _starts(facts)
    if facts.config is not None:
        toml = shown(io.dump_toml(facts.config), _MOST_CONFIG)
        blocks.append(code("The resolved configuration (run.toml)", toml, folded=True))
    if facts.text:
        blocks.append(text(f"SHA-256 of the text: {line(facts.text, 64)}."))
    return blocks


def _starts(facts: Facts) -> list[Block]:
    if not facts.starts:
        return [text("Versions and machine were not recorded (starts.jsonl is missing).")]
    rows = [
        [
            short(float(start.get("step") or 0), 6),
            line(str(start.get("time", "")), 40),
            line(_listed(start.get("versions")), 300),
            line(_listed(start.get("machine")), 300),
        ]
        for start in facts.starts[-50:]
    ]
    blocks = [
        table("Starts", ["from step", "time (UTC)", "versions", "machine"], rows, numbers=[0])
    ]
    header = facts.starts[-1].get("header")
    if isinstance(header, list) and header:
        words = "\n".join(str(each) for each in header)
        blocks.append(
            code("What was on and off, as the run printed it", shown(words, _MOST_CONFIG))
        )
    return blocks


def _listed(value: Any) -> str:
    """``{"a": 1}`` -> ``a 1``."""
    if not isinstance(value, dict):
        return ""
    parts = [
        (name, ", ".join(map(str, each)) if isinstance(each, list) else each)
        for name, each in value.items()
    ]
    return "; ".join(f"{name} {each}" for name, each in parts if each not in ("", 0))
