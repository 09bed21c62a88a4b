"""How long the ranks that share out the experts wait for the fullest of them.

A step's expert compute takes as long as its fullest rank in each layer and micro-batch, all added;
were the rows even, it would take the mean. The slow-down is the one over the other. A row costs
what its expert has parameters. Axes: C micro-batches, E experts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from turnout.config.errors import UserError
from turnout.config.parallel import divisors
from turnout.config.train import RunConfig
from turnout.plan.memory import state_bytes
from turnout.plan.weights import Held, units
from turnout.plan.work import FLOAT
from turnout.simulate.what_if.placement import (
    Arrangement,
    Rows,
    bound,
    contiguous,
    placed,
    replicated,
)
from turnout.simulate.what_if.trace import Trace, TracedLayer

Tell = Callable[[str], None]


@dataclass(frozen=True)
class LayerRows:
    """Rows of one layer by micro-batch and expert; ``cost`` is what one row costs."""

    layer: str
    cost: int
    rows: Rows

    def part(self, batches: slice) -> "LayerRows":
        """Of some of the micro-batches."""
        return LayerRows(self.layer, self.cost, self.rows[batches])


@dataclass(frozen=True)
class Stragglers:
    """Slow-down of contiguous experts by number of ranks: of each layer, and of the step.

    Attributes:
        factor: the capacity factor of training; None where none is configured.
        bounded, bounded_step: the same of what that leaves; empty without one.
    """

    ranks: tuple[int, ...]
    factor: float | None
    layers: dict[str, tuple[float, ...]]
    step: tuple[float, ...]
    bounded: dict[str, tuple[float, ...]]
    bounded_step: tuple[float, ...]


@dataclass(frozen=True)
class Placed:
    """Slow-downs of a step over ``ranks`` ranks, measured on the second half of the trace.

    ``better`` was fitted on the first half, where it had the slow-down ``fitted``, and contiguous
    experts ``contiguous_fitted``. No placement without copies goes below ``bound``.
    """

    ranks: int
    contiguous: float
    better: float
    bound: float
    contiguous_fitted: float
    fitted: float


@dataclass(frozen=True)
class Replicated:
    """The same with ``spare`` more places on each rank.

    Attributes:
        slow_down: on the second half; ``fitted`` on the first.
        bytes: that the spare places of all layers take on a rank: weights, gradients, optimiser.
        experts: of each rank, by layer.
    """

    spare: int
    slow_down: float
    fitted: float
    bytes: int
    experts: dict[str, tuple[tuple[int, ...], ...]]


def layer_rows(layer: TracedLayer, trace: Trace, capacity: int | None) -> LayerRows:
    """The rows of a layer that find a slot."""
    kept, experts = layer.kept(capacity), layer.sparse.experts
    batch = np.arange(len(kept)) // trace.rows
    cell = batch[:, None, None] * experts + layer.expert
    counts = np.bincount(cell[kept], minlength=trace.batches * experts)
    return LayerRows(layer.name, layer.sparse.cost, counts.reshape(trace.batches, experts))


def slow_down(layers: Sequence[LayerRows], homes: Sequence[Arrangement]) -> float:
    """Of a step that goes through ``layers``, whose experts stand in ``homes``."""
    waited = sum(
        layer.cost * int(home.fullest(layer.rows).sum())
        for layer, home in zip(layers, homes, strict=True)
    )
    return waited / _even(layers, homes[0].ranks)


def sizes(experts: Sequence[int], asked: int | None) -> tuple[tuple[int, ...], int]:
    """Numbers of ranks to look at: powers of two that share out the experts of every layer, and
    the one that is asked for; and that one, 8 or the next below unless given.

    Raises:
        UserError: it does not share them out, or there is nothing to share.
    """
    common = int(np.gcd.reduce(list(experts)))
    valid = [number for number in divisors(common) if number > 1]
    if not valid:
        raise UserError(
            f"--what-if: layers of {', '.join(map(str, sorted(set(experts))))} experts cannot be "
            "shared out evenly over 2 ranks or more"
        )
    if asked is not None and asked not in valid:
        raise UserError(
            f"--ranks {asked}: must be one of {', '.join(map(str, valid))}, which share "
            f"{common} experts out evenly"
        )
    powers = [number for number in valid if number & (number - 1) == 0]
    chosen = asked or max((number for number in powers if number <= 8), default=valid[0])
    return tuple(sorted({*powers, chosen})), chosen


def stragglers(trace: Trace, ranks: Sequence[int], factor: float | None) -> Stragglers:
    """Over the whole trace, for each number of ranks."""
    free = [layer_rows(layer, trace, None) for layer in trace.layers]
    full = [
        layer_rows(layer, trace, moe.expert_capacity(factor, layer.sparse.group_tokens))
        for layer in trace.layers
        for moe in (layer.sparse.moe,)
        if factor is not None
    ]
    return Stragglers(
        tuple(ranks),
        factor,
        {each.layer: tuple(_plain([each], n) for n in ranks) for each in free},
        tuple(_plain(free, n) for n in ranks),
        {each.layer: tuple(_plain([each], n) for n in ranks) for each in full},
        tuple(_plain(full, n) for n in ranks) if full else (),
    )


def placements(
    trace: Trace, ranks: Sequence[int], tell: Tell
) -> tuple[tuple[Placed, ...], dict[int, list[Arrangement]]]:
    """Contiguous experts against better placed ones, dropless; and the better ones by ranks."""
    first, second = halves(trace)
    found, homes = [], {}
    for number in ranks:
        tell(f"placing experts on {number} ranks")
        homes[number] = [placed(layer.rows, number) for layer in first]
        least = sum(each.cost * float(bound(each.rows, number).sum()) for each in second)
        found.append(
            Placed(
                number,
                _plain(second, number),
                slow_down(second, homes[number]),
                least / _even(second, number),
                _plain(first, number),
                slow_down(first, homes[number]),
            )
        )
    return tuple(found), homes


def replications(
    trace: Trace, alone: Sequence[Arrangement], spares: Sequence[int], run: RunConfig, tell: Tell
) -> tuple[Replicated, ...]:
    """Copies of the fullest experts beside those that are placed ``alone``, dropless."""
    first, second = halves(trace)
    found = []
    for spare in (0, *spares):
        tell(f"copying experts into {spare} spare places a rank")
        homes = [
            replicated(layer.rows, home, spare) for layer, home in zip(first, alone, strict=True)
        ]
        found.append(
            Replicated(
                spare,
                slow_down(second, homes),
                slow_down(first, homes),
                spare * place_bytes(run),
                {layer.layer: home.by_rank() for layer, home in zip(first, homes, strict=True)},
            )
        )
    return tuple(found)


def check_spares(spares: Sequence[int], experts: Sequence[int], ranks: int) -> None:
    """Raises UserError where a rank would have a place for every expert and more."""
    most = min(experts) - min(experts) // ranks
    for spare in spares:
        if not 1 <= spare <= most:
            raise UserError(
                f"--spare {spare}: must be 1 to {most}; a rank of {ranks} has {min(experts)} "
                "experts then, all of them"
            )


def halves(trace: Trace) -> tuple[list[LayerRows], list[LayerRows]]:
    """The first half of the micro-batches, and the second."""
    rows = [layer_rows(layer, trace, None) for layer in trace.layers]
    middle = trace.batches // 2
    return (
        [each.part(slice(middle)) for each in rows],
        [each.part(slice(middle, None)) for each in rows],
    )


def place_bytes(run: RunConfig) -> int:
    """Weights, gradients and optimiser of one more expert in every sparse layer of a rank, as the
    plan counts them, where no further rank shards them."""
    found = 0
    for unit in units(run.model):
        for weight in unit.weights if unit.experts else ():
            one, two = (Held(weight, (n, *weight.shape[1:]), 0, 1) for n in (1, 2))
            state = state_bytes(run.optimizer, two) - state_bytes(run.optimizer, one)
            found += unit.repeat * (2 * FLOAT * one.kept + state)
    return found


def _plain(layers: Sequence[LayerRows], ranks: int) -> float:
    return slow_down(layers, [contiguous(layer.rows.shape[1], ranks) for layer in layers])


def _even(layers: Sequence[LayerRows], ranks: int) -> float:
    return sum(layer.cost * int(layer.rows.sum()) for layer in layers) / ranks
