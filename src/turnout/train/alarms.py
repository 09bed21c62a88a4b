"""Alarms of the sparse layers: pure functions from what was seen and a step to what it means.

What is remembered is plain numbers, kept in every checkpoint, so that a resumed run raises its
alarms at the steps at which an uninterrupted one does.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from turnout.config.guards import AlarmConfig
from turnout.train.report import LayerReport

AlarmName = Literal["collapse", "dead", "logits", "drops", "balance"]

WINDOW = 100
_SPIKE = 3.0
_ENOUGH = 1000  # assignments an idle expert must have missed, at the mean load


@dataclass(frozen=True)
class Alarm:
    """Something wrong with a layer: what, and what to do about it."""

    name: AlarmName
    layer: str
    text: str


@dataclass(frozen=True)
class LayerWatch:
    """What is remembered of a layer.

    Attributes:
        collapse, logits, drops, balance: steps in a row for which each condition held.
        idle: steps in a row in which each expert was assigned nothing.
        missed: assignments that the mean load would have been in them, the largest over experts.
        dropped: dropped shares of the last steps, at most ``WINDOW``, oldest first.
    """

    collapse: int = 0
    logits: int = 0
    drops: int = 0
    balance: int = 0
    idle: tuple[int, ...] = ()
    missed: tuple[float, ...] = ()
    dropped: tuple[float, ...] = ()


Watches = Mapping[str, LayerWatch]


def watch(
    seen: Watches, layers: Sequence[LayerReport], config: AlarmConfig
) -> tuple[Watches, tuple[Alarm, ...]]:
    """What is remembered after a step, and the alarms it raises."""
    if not config.on:
        return seen, ()
    after = {
        layer.name: _remembered(seen.get(layer.name, LayerWatch()), layer, config)
        for layer in layers
    }
    alarms = tuple(alarm for layer in layers for alarm in _alarms(after[layer.name], layer, config))
    return after, alarms


def effective_experts(load: Sequence[int]) -> float:
    """Exponential of the entropy of the load: E when even, 1 when one expert takes all."""
    total = sum(load)
    shares = [count / total for count in load if count] if total else []
    return math.exp(-math.fsum(share * math.log(share) for share in shares))


def _remembered(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> LayerWatch:
    experts = len(layer.assigned)
    mean = sum(layer.assigned) / experts
    idle = seen.idle or (0,) * experts
    missed = seen.missed or (0.0,) * experts
    asleep = [count == 0 for count in layer.assigned]
    streaks = {
        name: getattr(seen, name) + 1 if condition(seen, layer, config) else 0
        for name, condition in _CONDITIONS.items()
    }
    return replace(
        seen,
        **streaks,
        idle=tuple(age + 1 if off else 0 for age, off in zip(idle, asleep, strict=True)),
        missed=tuple(lost + mean if off else 0.0 for lost, off in zip(missed, asleep, strict=True)),
        dropped=(*seen.dropped, layer.dropped)[-WINDOW:],
    )


def _alarms(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> Iterator[Alarm]:
    for name in _CONDITIONS:
        if _due(getattr(seen, name), config.patience, config.repeat):
            yield Alarm(name, layer.name, _TEXTS[name](seen, layer))
    ages = zip(seen.idle, seen.missed, strict=True)
    dead = [
        expert
        for expert, (age, lost) in enumerate(ages)
        if age >= config.dead_after and lost >= _ENOUGH
    ]
    fresh = [
        expert
        for expert in dead
        if _due(seen.idle[expert], config.dead_after, config.repeat)
        or seen.missed[expert] - sum(layer.assigned) / len(layer.assigned) < _ENOUGH
    ]
    if fresh:
        yield Alarm("dead", layer.name, _dead(dead, seen, len(layer.assigned)))


def _due(streak: int, patience: int, repeat: int) -> bool:
    return streak >= patience and (streak - patience) % repeat == 0


def _collapsed(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> bool:
    limit = config.collapse * layer.active
    return len(layer.assigned) > limit and effective_experts(layer.assigned) <= limit


def _grown(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> bool:
    return layer.log_sum_exp > config.logits


def _spiking(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> bool:
    if len(seen.dropped) < WINDOW:
        return False
    return layer.dropped > max(config.drops, _SPIKE * median(seen.dropped))


def _evading(seen: LayerWatch, layer: LayerReport, config: AlarmConfig) -> bool:
    return len(layer.assigned) > 1 and 0 < layer.balance_loss < config.balance


def _dead(dead: Sequence[int], seen: LayerWatch, experts: int) -> str:
    named = ", ".join(str(expert) for expert in dead[:8]) + (", .." if len(dead) > 8 else "")
    ages = [seen.idle[expert] for expert in dead]
    lasting = str(min(ages)) if min(ages) == max(ages) else f"{min(ages)} to {max(ages)}"
    return (
        f"{len(dead)} of {experts} experts got no token for {lasting} steps: {named}; raise "
        "losses.balance, or use fewer experts"
    )


def _say_collapse(seen: LayerWatch, layer: LayerReport) -> str:
    busiest = max(range(len(layer.assigned)), key=layer.assigned.__getitem__)
    return (
        f"the router sends nearly all to {effective_experts(layer.assigned):.2f} of "
        f"{len(layer.assigned)} experts (expert {busiest} gets "
        f"{layer.assigned[busiest] / sum(layer.assigned):.0%} of the assignments) for "
        f"{seen.collapse} steps; raise losses.balance, or lower the learning rate of the router "
        "(optimizer.router_rate)"
    )


def _say_logits(seen: LayerWatch, layer: LayerReport) -> str:
    return (
        f"the router's logits grow: root mean square of their log-sum-exp "
        f"{layer.log_sum_exp:.1f}, {math.log(len(layer.assigned)):.1f} when all are zero; raise "
        "losses.router_z"
    )


def _say_drops(seen: LayerWatch, layer: LayerReport) -> str:
    return (
        f"{layer.dropped:.0%} of the assignments find no slot, {median(seen.dropped):.0%} in the "
        f"median of the last {len(seen.dropped)} steps; raise model.moe.train_capacity_factor, or "
        "look at the data of these steps"
    )


def _say_balance(seen: LayerWatch, layer: LayerReport) -> str:
    return (
        f"the balance loss is {layer.balance_loss:.2f}, far below the 1 of even loads: the "
        "router's probabilities no longer follow its choices; raise losses.router_z, or take "
        "another losses.balance_variant"
    )


_Condition = Callable[[LayerWatch, LayerReport, AlarmConfig], bool]
_CONDITIONS: dict[AlarmName, _Condition] = {
    "collapse": _collapsed,
    "logits": _grown,
    "drops": _spiking,
    "balance": _evading,
}
_TEXTS: dict[AlarmName, Callable[[LayerWatch, LayerReport], str]] = {
    "collapse": _say_collapse,
    "logits": _say_logits,
    "drops": _say_drops,
    "balance": _say_balance,
}
