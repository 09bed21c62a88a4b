"""What the trainer tells its hooks: plain numbers, no tensors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from turnout.moe.stats import LayerStats


@dataclass(frozen=True)
class LayerReport:
    """One sparse layer over the micro-batches of a step.

    Attributes:
        name: the layer's.
        assigned: assignments of each expert before capacity; kept ones where tokens name
            more candidates than may serve them.
        wanted: assignments that a token asks for and that a slot could serve.
        kept: assignments that found a slot, all experts together.
        tokens: real tokens.
        unrouted: real tokens that no expert served.
        entropy: mean entropy of the router's probabilities, in nats.
        active: experts that compute a token when nothing is dropped.
        log_sum_exp: root mean square of the log-sum-exp of the router's logits.
        balance_loss: E times the inner product of the experts' shares of the assignments and
            their mean probabilities over the whole step; 1 when both are even, 0 for a router
            without probabilities.
    """

    name: str
    assigned: tuple[int, ...]
    wanted: int
    kept: int
    tokens: int
    unrouted: int
    entropy: float
    active: int
    log_sum_exp: float
    balance_loss: float

    @property
    def balance(self) -> float:
        """Largest load over mean load: 1 when even, E when one expert takes all."""
        total = sum(self.assigned)
        return max(self.assigned) * len(self.assigned) / total if total else 1.0

    @property
    def dropped(self) -> float:
        """Share of the wanted assignments that found no slot."""
        return 1 - self.kept / self.wanted if self.wanted else 0.0


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        step: optimiser steps done, this one included.
        loss: language loss, mean nats per target.
        bits: the same in bits per byte of target text (per hidden byte for span corruption).
        terms: every term of the objective, unweighted.
        learning_rate: after the schedule.
        gradient_norm: before clipping.
        targets: targets of this step.
        tokens: real tokens seen by the run so far, all stacks.
        tokens_per_second: real tokens of this step over its time.
        layers: the sparse layers, in order.
        skipped: why no update was made; empty when one was.
        batch: index of the batch trained on; beyond the step where a rollback passed over some.
    """

    step: int
    loss: float
    bits: float
    terms: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    targets: int
    tokens: int
    tokens_per_second: float
    layers: tuple[LayerReport, ...]
    skipped: str = ""
    batch: int = 0

    @property
    def dropped(self) -> float:
        """Share of dropped assignments over all layers."""
        return dropped_share(self.layers)

    @property
    def balance(self) -> float:
        """Largest over mean load of the worst layer; 1 for a dense model."""
        return max((layer.balance for layer in self.layers), default=1.0)


@dataclass(frozen=True)
class Evaluation:
    """The held-out rows, without noise; ``loss`` is the language loss alone.

    Attributes:
        step: optimiser steps done.
        loss: mean nats per target.
        bits: bits per byte of target text (per hidden byte for span corruption).
        targets: how many targets.
        bytes: how many of them are bytes of text.
        terms: the objective's other terms, unweighted.
        balance: largest over mean load of the worst layer.
        dropped: share of dropped assignments over all layers; 0 unless evaluation has a capacity.
        seconds: time it took.
        sources: the loss on each source of a mixture, by name; empty without one.
    """

    step: int
    loss: float
    bits: float
    targets: int
    bytes: int
    terms: Mapping[str, float]
    balance: float
    dropped: float
    seconds: float
    sources: Mapping[str, float] = field(default_factory=dict)


EventName = Literal["skip", "alarm", "action", "rollback", "resume", "interrupt", "patience"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a run, for people and for ``metrics.jsonl``.

    Attributes:
        step: optimiser steps done when it happened.
        name: what happened.
        text: one line.
        layer: the sparse layer that it concerns, or None.
    """

    step: int
    name: EventName
    text: str
    layer: str | None = None


def dropped_share(layers: Sequence[LayerReport]) -> float:
    """Share of the wanted assignments of all layers that found no slot."""
    wanted = sum(layer.wanted for layer in layers)
    return 1 - sum(layer.kept for layer in layers) / wanted if wanted else 0.0


def layer_reports(micro_batches: Iterable[tuple[LayerStats, ...]]) -> tuple[LayerReport, ...]:
    """Add the layers' statistics over micro-batches, in int64 and float64 on the host."""
    columns = list(zip(*micro_batches, strict=True))
    return tuple(_layer_report(column) for column in columns)


def finite(value: float) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def _layer_report(parts: tuple[LayerStats, ...]) -> LayerReport:
    # Candidates are no load where a token may occupy fewer experts than it names.
    fallback = parts[0].choices > parts[0].active
    loads = [part.kept if fallback else part.router.assigned for part in parts]
    assigned = _total(loads)
    tokens = sum(int(part.router.tokens.sum()) for part in parts)
    entropy = sum(float(part.router.entropy.detach().double().sum()) for part in parts)
    squares = sum(float(part.router.z.detach().double().sum()) for part in parts)
    # Where a token names more candidates than it may get, the rest is no loss; experts that choose
    # may take more than their share of a short group.
    asked = int(_total([part.router.assigned for part in parts]).sum())
    kept = sum(int(part.kept.sum()) for part in parts)
    return LayerReport(
        name=parts[0].name,
        assigned=tuple(assigned.tolist()),
        wanted=max(min(tokens * parts[0].active, asked), kept),
        kept=kept,
        tokens=tokens,
        unrouted=sum(int(part.unrouted.sum()) for part in parts),
        entropy=entropy / max(tokens, 1),
        active=parts[0].active,
        log_sum_exp=math.sqrt(squares / max(tokens, 1)),
        balance_loss=_balance_loss(parts, tokens),
    )


def _balance_loss(parts: tuple[LayerStats, ...], tokens: int) -> float:
    probability = _total([part.router.probability for part in parts]).double()
    assigned = _total([part.router.assigned for part in parts]).double()
    scale = max(tokens, 1) * max(float(assigned.sum()), 1.0)
    return len(assigned) * float(probability @ assigned) / scale


def _total(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([row.detach().sum(0) for row in rows]).sum(0)
