"""Numbers in words: sizes, durations, shares, and the figures at the top of a report."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from turnout.config.train import RunConfig
from turnout.probe.report.blocks import figure
from turnout.probe.report.facts import Facts
from turnout.probe.report.text import line
from turnout.probe.report.thin import smoothed

_SCALES: Final = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NOTHING: Final = "-"


def short(value: float | int, digits: int = 3, unit: str = "") -> str:
    """``1234567`` -> ``1.23M``, with a unit ``1.23 MB``; a dash for what is not finite."""
    space = " " if unit else ""
    if not math.isfinite(value):
        return NOTHING
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g}{space}{letter}{unit}"
    return f"{value:.{digits}g}{space}{unit}"


def decimal(value: float | int, digits: int = 3) -> str:
    """A dash for what is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def percent(value: float) -> str:
    """``0.123`` -> ``12.3%``."""
    return f"{value:.1%}" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    if not math.isfinite(seconds) or seconds <= 0:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s"


def last(values: Sequence[float]) -> float:
    """The last finite number of a column; nan if it has none."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def final_training(facts: Facts) -> float:
    """Mean bits of the last training batches; the last one of a run too short for a mean."""
    bits = facts.history.scalars["bits"]
    mean = smoothed(facts.history.step, bits)
    return mean.value[-1] if len(mean) else last(bits)


def held_out(facts: Facts) -> float:
    """Bits on held-out text at the last evaluation."""
    return facts.history.evaluation().get("bits", math.nan)


def tokens(facts: Facts) -> float:
    """Tokens seen by the run."""
    return last(facts.history.scalars["tokens"])


def seconds(facts: Facts) -> float:
    """Time spent on steps and evaluations."""
    spent = facts.history.seconds
    return spent[-1] if spent else math.nan


def arithmetic(facts: Facts) -> float:
    """FLOPs of training up to the last step."""
    return facts.step_flops * facts.history.last_step() if facts.step_flops else math.nan


def top_figures(facts: Facts) -> list[dict[str, str]]:
    """What a reader wants to know first."""
    history = facts.history
    found = [
        figure(f"{facts.unit}, held-out text", decimal(held_out(facts)), _beside(facts)),
        figure(f"{facts.unit}, last training batches", decimal(final_training(facts))),
    ]
    if facts.config is not None:
        model = facts.config.model
        total, active = model.num_params(), model.num_active_params()
        found.append(figure("parameters", short(total), f"{short(active)} active for a token"))
    found += [
        figure("steps", f"{history.last_step():,}", f"{short(tokens(facts))} tokens"),
        figure("time", duration(seconds(facts)), _speed(facts)),
        figure("arithmetic", _flops(arithmetic(facts)), "three forward passes a step"),
    ]
    layers = history.layers
    if layers:
        worst = max((last(layer.scalars["balance"]), name) for name, layer in layers.items())
        drop = max((last(layer.scalars["dropped"]), name) for name, layer in layers.items())
        found += [
            figure("busiest expert", f"{decimal(worst[0], 2)} \u00d7 even", line(worst[1], 60)),
            figure("dropped in training", percent(drop[0]), line(drop[1], 60)),
        ]
    return found


def _flops(value: float) -> str:
    return f"{short(value, unit='FLOP')}" if math.isfinite(value) else NOTHING


def _speed(facts: Facts) -> str:
    spent, seen = seconds(facts), tokens(facts)
    return f"{short(seen / spent)} tokens/s" if spent > 0 and math.isfinite(seen) else ""


def _beside(facts: Facts) -> str:
    bits: Mapping[str, float] = {} if facts.measured is None else facts.measured.bits
    if not bits:
        return ""
    name, best = min(bits.items(), key=lambda item: item[1])
    return f"{line(name, 60)}: {best:.3f} on the same text"


def describe(config: RunConfig) -> str:
    """A sentence about what was trained."""
    model, moe = config.model, config.model.moe
    layers = sum(stack.num_layers for stack in model.stacks())
    sparse = sum(len(stack.sparse_layers) for stack in model.stacks())
    kind = model.kind.replace("_", "-")
    experts = (
        "dense"
        if moe is None
        else f"{moe.num_experts} experts in {sparse} of {layers} layers, {moe.router.kind} router"
    )
    return (
        f"{kind} of width {model.d_model}, {experts}; {config.objective.kind} objective, "
        f"{config.train.batch_rows} rows a step, {config.optimizer.kind} with learning rate "
        f"{config.optimizer.learning_rate:g}"
    )
