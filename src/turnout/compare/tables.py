"""comparison.json, and the tables of comparison.md."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from turnout.compare.analysis import AXES, ArmResult, Comparison, Middle, PairResult
from turnout.compare.track import Outcome, Track
from turnout.config.arms import count_runs, total_flops


def to_json(comparison: Comparison, command: str) -> str:
    """All figures, the protocol and what they were measured on; numbers that are not are null."""
    table = {
        "command": command,
        "protocol": comparison.protocol.to_dict(),
        "arms": [_arm_json(result) for result in comparison.arms],
        "speed_ups": [_pair_json(pair) for pair in comparison.pairs],
        "runs": {run.planned.name: asdict(run.outcome) for run in comparison.finished},
    }
    return json.dumps(table, indent=1, allow_nan=False) + "\n"


def to_markdown(comparison: Comparison, command: str, pictures: Sequence[str] = ()) -> str:
    """The comparison as a page, with the names of its pictures."""
    parts = [
        f"# {comparison.protocol.run.preset}: sparse against dense",
        _measured_on(comparison, command),
        *(f"![{name}]({name})" for name in pictures),
        "## Speed-up",
        _SPEED,
        _table(
            ("arm", "against", *(f"by {axis}" for axis in AXES), "loss minus baseline's", "seeds"),
            map(_pair_row, comparison.pairs),
        ),
        "## Quality and cost",
        _COST,
        _table(
            (
                *("arm", "parameters", "active", "FLOPs a step", "rate", "validation loss"),
                *("training clock, s", "peak memory, MB", "seeds"),
            ),
            map(_arm_row, comparison.arms),
        ),
        *_trials(comparison),
        *_notes(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def speed_line(pair: PairResult) -> str:
    """``experts-8 against dense: 1.31 (1.27 to 1.33) by steps, ..``."""
    parts = (f"{spread.text()} by {axis}" for axis, spread in zip(AXES, pair.spreads, strict=True))
    return f"{pair.arm} against {pair.baseline}: {', '.join(parts)}"


def loss_line(result: ArmResult) -> str:
    """``experts-8: validation loss 1.0920 (1.0910 to 1.0931), rate 0.002, 641.2 s of training``."""
    return (
        f"{result.arm.name}: validation loss {_text(result.loss, '.4f')}, rate {result.rate:g}, "
        f"{_text(result.seconds, ',.1f')} s of training"
    )


_SPEED = (
    "What the baseline spends until its final quality (the end of the running minimum of its "
    "validation loss) over what the arm spends until the same quality, interpolated on the arm's "
    'running minimum; paired by seed; median and range over seeds. "Not reached" means within '
    "the arm's steps, and nothing is extrapolated. Above 1 the arm is faster."
)
_COST = (
    "Validation loss: the end of the running minimum in nats a target, nothing dropped; median and "
    "range over seeds, of the clock and the memory too. FLOPs: three forward passes, every "
    "position real and nothing dropped. The training clock is the time of the steps alone: no "
    "start-up, reading of data, evaluation or checkpoint. Peak memory is the resident set of a "
    "run's process, Python and torch included."
)


def _measured_on(comparison: Comparison, command: str) -> str:
    protocol, outcomes = comparison.protocol, [run.outcome for run in comparison.finished]
    train, compare = protocol.run.train, protocol.compare
    seeds = f"1 to {compare.seeds}" if compare.seeds > 1 else "1"
    trial = "; seed 0 chose the learning rates" if len(compare.learning_rates) > 1 else ""
    lines = [
        f"Command: `{command}`",
        f"Runs: {count_runs(protocol)} of {train.steps:,} steps of {train.batch_rows} rows, "
        f"evaluated every {train.eval_every}; seeds {seeds}{trial}; "
        f"{total_flops(protocol):.3g} FLOPs in all.",
        f"Machine: {_values(outcomes, 'processor')}; {_values(outcomes, 'threads')} threads, "
        f"{_values(outcomes, 'dtype')}{_neighbours(outcomes)}.",
        f"Versions: turnout {_values(outcomes, 'turnout')}, torch {_values(outcomes, 'torch')}, "
        f"Python {_values(outcomes, 'python')}.",
        f"Text: {_values(outcomes, 'text')}.",
    ]
    return "  \n".join(lines)


def _neighbours(outcomes: Iterable[Outcome]) -> str:
    """How many runs shared the machine, which slows every clock."""
    most = max(outcome.at_once for outcome in outcomes)
    return f"; up to {most} runs at once, which slows their clocks alike" if most > 1 else ""


def _values(outcomes: Iterable[Outcome], name: str) -> str:
    """One value, or all that the runs had."""
    return " and ".join(sorted({str(getattr(outcome, name)) for outcome in outcomes}))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pair_row(pair: PairResult) -> list[str]:
    spreads = [spread.text() for spread in pair.spreads]
    return [pair.arm, pair.baseline, *spreads, _text(pair.loss, "+.4f"), _seeds(pair.seeds)]


def _arm_row(result: ArmResult) -> list[str]:
    model = result.arm.config.model
    memory = result.peak_memory
    return [
        result.arm.name,
        f"{model.num_params():,}",
        f"{model.num_active_params():,}",
        f"{result.arm.step_flops:.4g}",
        f"{result.rate:g}",
        _text(result.loss, ".4f"),
        _text(result.seconds, ",.1f"),
        _text(
            Middle(*(_mega(value) for value in (memory.median, memory.low, memory.high))), ",.0f"
        ),
        _seeds([seed.seed for seed in result.seeds]),
    ]


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _text(middle: Middle, form: str) -> str:
    if middle.median is None or middle.low is None or middle.high is None:
        return "none"
    median = f"{middle.median:{form}}"
    if middle.low == middle.high:
        return median
    return f"{median} ({middle.low:{form}} to {middle.high:{form}})"


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _trials(comparison: Comparison) -> list[str]:
    rates = comparison.protocol.compare.learning_rates
    tried = [result for result in comparison.arms if result.trial]
    if not tried:
        return []
    rows = [
        [result.arm.name, *(_loss(dict(result.trial).get(rate)) for rate in rates)]
        for result in tried
    ]
    heads = ("arm", *(f"rate {rate:g}" for rate in rates))
    about = "Validation loss after the last step on seed 0, by learning rate; the best was taken."
    return ["## Trials of learning rates", about, _table(heads, rows)]


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _notes(comparison: Comparison) -> list[str]:
    lines = []
    for result in comparison.arms:
        arm = result.arm
        lines += [f"- {arm.name}: {note}" for note in arm.notes]
        if arm.rate_of != arm.name:
            lines.append(f"- {arm.name}: the learning rate is the one chosen for {arm.rate_of}")
        if result.edge:
            lines.append(
                f"- {arm.name}: its learning rate is at the edge of those tried; another beyond it "
                "may be better"
            )
        lines += [f"- {seed.run}: {seed.failed}" for seed in result.seeds if seed.failed]
    return ["## Notes", "\n".join(lines)] if lines else []


def _arm_json(result: ArmResult) -> dict[str, Any]:
    model = result.arm.config.model
    return {
        "name": result.arm.name,
        "sparse": result.arm.sparse,
        "experts": result.arm.num_experts,
        "parameters": model.num_params(),
        "active_parameters": model.num_active_params(),
        "step_flops": result.arm.step_flops,
        "learning_rate": result.rate,
        "learning_rate_of": result.arm.rate_of,
        "learning_rate_at_edge": result.edge,
        "trial": [{"learning_rate": rate, "loss": loss} for rate, loss in result.trial],
        "notes": list(result.arm.notes),
        "loss": asdict(result.loss),
        "seconds": asdict(result.seconds),
        "peak_memory": asdict(result.peak_memory),
        "seeds": [
            {**asdict(seed), "curve": None if track is None else _curve_json(track)}
            for seed, track in zip(result.seeds, result.tracks, strict=True)
        ],
    }


def _curve_json(track: Track) -> dict[str, Any]:
    return {
        "steps": list(track.steps),
        "loss": [loss if math.isfinite(loss) else None for loss in track.losses],
        "seconds": [round(seconds, 3) for seconds in track.seconds],
    }


def _pair_json(pair: PairResult) -> dict[str, Any]:
    by_axis = {
        axis.replace(" ", "_"): {
            "spread": asdict(spread),
            "by_seed": [asdict(ratio) for ratio in ratios],
        }
        for axis, spread, ratios in zip(AXES, pair.spreads, pair.ratios, strict=True)
    }
    return {
        "arm": pair.arm,
        "baseline": pair.baseline,
        "seeds": list(pair.seeds),
        "loss_difference": asdict(pair.loss),
        **by_axis,
    }
