"""Who is dropped at which capacity, and how many slots stay empty."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from turnout.simulate.what_if.trace import Trace, TracedLayer

LIMITS = (0.01, 0.001)
"""Shares of assignments that may be dropped, for which the least capacity factor is looked for."""


@dataclass(frozen=True)
class Counts:
    """Assignments that asked for a slot, those that got one, and the slots there are."""

    wanted: int
    kept: int
    slots: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.wanted + other.wanted, self.kept + other.kept, self.slots + other.slots)

    @property
    def dropped(self) -> float:
        """Share of the assignments."""
        return 1 - self.kept / self.wanted

    @property
    def empty(self) -> float:
        """Share of the slots: rows that are padding where every slot is computed."""
        return 1 - self.kept / self.slots


At = Callable[[float], Counts]
"""The counts at a capacity factor."""


@dataclass(frozen=True)
class LayerDrops:
    """One layer, or all of them together; a value for each capacity factor.

    Attributes:
        dropped: share of the assignments.
        empty: share of the slots.
        needed: the least factor, in hundredths, that drops no more than each of ``LIMITS``; None
            where none does.
    """

    layer: str
    dropped: tuple[float, ...]
    empty: tuple[float, ...]
    needed: tuple[float | None, ...]


@dataclass(frozen=True)
class Drops:
    """Of all layers and of the whole model, by capacity factor."""

    factors: tuple[float, ...]
    limits: tuple[float, ...]
    layers: tuple[LayerDrops, ...]
    whole: LayerDrops


def drops(trace: Trace, factors: Sequence[float]) -> Drops:
    """What each capacity factor drops of a trace."""
    tables = {layer.name: counter(layer) for layer in trace.layers}

    def whole(factor: float) -> Counts:
        return sum((at(factor) for at in tables.values()), Counts(0, 0, 0))

    most = max(full(layer) for layer in trace.layers)
    layers = tuple(
        _drops(layer.name, tables[layer.name], factors, full(layer)) for layer in trace.layers
    )
    return Drops(tuple(factors), LIMITS, layers, _drops("all layers", whole, factors, most))


def counter(layer: TracedLayer) -> At:
    """Counts one layer; each capacity once."""
    sparse = layer.sparse
    groups = len(layer.expert) // sparse.moe.group.rows
    wanted = int(layer.kept(None).sum())
    kept = cache(lambda capacity: int(layer.kept(capacity).sum()))

    def at(factor: float) -> Counts:
        capacity = sparse.moe.expert_capacity(factor, sparse.group_tokens)
        assert capacity is not None
        return Counts(wanted, kept(capacity), groups * sparse.experts * capacity)

    return at


def full(layer: TracedLayer) -> float:
    """A factor at which every expert has a slot for each token of a group, in hundredths."""
    moe = layer.sparse.moe
    choices = moe.num_experts if moe.router.starts_dense else moe.router.active
    return math.ceil(100 * moe.num_experts / choices) / 100


def _drops(name: str, at: At, factors: Sequence[float], most: float) -> LayerDrops:
    found = [at(factor) for factor in factors]
    return LayerDrops(
        name,
        tuple(each.dropped for each in found),
        tuple(each.empty for each in found),
        tuple(needed(at, limit, most) for limit in LIMITS),
    )


def needed(at: At, limit: float, most: float) -> float | None:
    """The least factor in hundredths up to ``most`` that drops at most ``limit``; more capacity
    never drops more."""
    low, high = 0, round(100 * most)
    if at(high / 100).dropped > limit:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if at(middle / 100).dropped > limit:
            low = middle
        else:
            high = middle
    return high / 100
