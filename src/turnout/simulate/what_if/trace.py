"""A record of routing, held against the configuration that it is asked about.

Axes: B rows, S tokens of a row, K choices, T tokens, E experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, singledispatch

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64

from turnout.config.errors import UserError, require
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig
from turnout.config.routers import ExpertChoiceRouter, NullExpertsRouter, PrototypesRouter
from turnout.models.base import Model
from turnout.models.build import build
from turnout.models.contexts import grouping
from turnout.moe.assignment import Assignment
from turnout.moe.capacity import grant
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.moe.record import RoutingRecord
from turnout.moe.routers.null_experts import turn
from turnout.moe.stats import LayerDecision


@dataclass(frozen=True)
class Sparse:
    """A sparse layer of the model, without values: its router and its priority are asked.

    Attributes:
        moe: with the layer's own number of experts.
        group_tokens: configured tokens of a routing group.
        length: configured tokens of a row.
    """

    layer: MoELayer
    moe: MoEConfig
    group_tokens: int
    length: int

    @property
    def experts(self) -> int:
        """E."""
        return self.layer.experts.num_experts

    @property
    def cost(self) -> int:
        """Parameters of one expert, to which the arithmetic of a row is proportional."""
        return sum(p.numel() for p in self.layer.experts.parameters()) // self.experts


@dataclass(frozen=True)
class TracedLayer:
    """What tokens asked of one layer; rows are whole micro-batches."""

    sparse: Sparse
    decision: LayerDecision

    @property
    def name(self) -> str:
        """Such as ``decoder.3.moe``."""
        return self.sparse.layer.name

    @cached_property
    def expert(self) -> Int64[np.ndarray, "B S K"]:
        """The expert of each choice; any number where none was named."""
        found: np.ndarray = self.decision.named.numpy()
        return found

    def kept(self, capacity: int | None) -> Bool[np.ndarray, "B S K"]:
        """Which choices find a slot, as the layer grants them in training.

        Args:
            capacity: slots of an expert in a routing group; None for as many as needed.
        """
        shape = self.decision.named.shape
        if self.sparse.layer.router.at_most is not None:
            found = self._granted(capacity)[1]
        elif capacity is None:
            found = self._assignment.live
        else:  # whoever stands before a choice does so at any capacity
            found = self._assignment.live & (self._slot < capacity)
        kept: np.ndarray = found.view(shape).numpy()
        return kept

    @cached_property
    def _slot(self) -> torch.Tensor:
        return self._granted(None)[0]

    def _granted(self, capacity: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        layer, context = self.sparse.layer, self._context
        return grant(
            self._assignment,
            layer.priority.order(self._assignment, context),
            context.group.flatten(),
            num_groups=context.num_groups,
            num_experts=self.sparse.experts,
            capacity=capacity,
            at_most=layer.router.at_most,
        )

    @cached_property
    def _context(self) -> RoutingContext:
        rows = self.sparse.moe.group.rows
        return RoutingContext.build((self.decision.named >= 0).any(2), rows=rows)

    @cached_property
    def _assignment(self) -> Assignment:
        given = self.decision
        live = given.live & (given.named >= 0)
        tables = (given.named.clamp(min=0), torch.zeros_like(given.weight), given.log_probability)
        expert, weight, log_probability = (table.flatten(0, 1) for table in tables)
        live = live.flatten(0, 1)
        found = Assignment.token_choice(expert, weight, log_probability, live)
        choice = _numbers(self.sparse.moe.router, live)
        return found if choice is None else replace(found, choice=choice.flatten())


@dataclass(frozen=True)
class Trace:
    """All sparse layers of a model over ``batches`` micro-batches of ``rows`` rows each.

    Attributes:
        tokens: that were routed, padding left out, by all layers.
    """

    layers: tuple[TracedLayer, ...]
    rows: int
    batches: int
    tokens: int

    @staticmethod
    def read(path: str, model: ModelConfig, rows: int, *, exactly: bool = False) -> "Trace":
        """From what ``RoutingRecord.save`` wrote, of a run of ``model``.

        Args:
            rows: of a micro-batch; fewer are taken where the record has not two of them, unless
                ``exactly``. What does not fill the last one is left out.

        Raises:
            UserError: it cannot be read, is of another model, or too short.
        """
        sparse = {each.layer.name: each for each in _sparse(_built(model))}
        record = RoutingRecord.load(path)
        if set(record.names) != set(sparse):
            raise UserError(
                f"--what-if {path}: holds layers {', '.join(record.names)}, but the model has "
                f"{', '.join(sparse)}; give the configuration that was recorded"
            )
        decisions = {name: record.by_layer()[name] for name in sparse}
        for name, decision in decisions.items():
            _check(path, sparse[name], decision)
        held = {len(decision.named) for decision in decisions.values()}
        if len(held) > 1:
            raise UserError(f"--what-if {path}: its layers have {sorted(held)} rows; must be alike")
        rows = _micro_batch(path, held.pop(), _group(model), rows, exactly)
        batches = len(decisions[record.names[0]].named) // rows
        layers = tuple(
            TracedLayer(sparse[name], _cut(decision, rows * batches))
            for name, decision in decisions.items()
        )
        for layer in layers:
            _check_halves(path, layer, rows * (batches // 2))
        tokens = sum(int((layer.decision.named >= 0).any(2).sum()) for layer in layers)
        return Trace(layers, rows, batches, tokens)


@singledispatch
def _numbers(router: object, live: Bool[torch.Tensor, "T K"]) -> Int[torch.Tensor, "T K"] | None:
    """Which choice of its token each one is, where a router does not count them in order."""
    return None


@_numbers.register
def _(router: NullExpertsRouter, live: Bool[torch.Tensor, "T K"]) -> Int[torch.Tensor, "T K"]:
    return turn(live)


@_numbers.register
def _(router: PrototypesRouter, live: Bool[torch.Tensor, "T K"]) -> Int[torch.Tensor, "T K"]:
    return torch.zeros_like(live, dtype=torch.int64)


@singledispatch
def _check_priority(router: object, priority: str) -> None:
    """Raises UserError where a record does not say in which order choices are served."""


@_check_priority.register
def _(router: ExpertChoiceRouter, priority: str) -> None:
    require(
        priority == "token",
        "model.moe.priority",
        priority,
        "'token' with --what-if",
        "a record does not say in which order experts chose",
    )


def _group(model: ModelConfig) -> int:
    """Rows of a routing group.

    Raises:
        UserError: groups are documents.
    """
    assert model.moe is not None, "a model without sparse layers has been refused"
    if model.moe.group.kind == DocumentGroup.kind:
        raise UserError(
            "model.moe.group = document: must be rows with --what-if, since a record does not say "
            "where documents begin; give --model.moe.group rows"
        )
    return model.moe.group.rows


def _built(model: ModelConfig) -> Model:
    if model.moe is None:
        raise UserError("--what-if: the model has no sparse layer; name a sparse one")
    return build(model, device="meta")


def _sparse(model: Model) -> Iterator[Sparse]:
    for stack in model.stacks():
        for name, layer in stack.sparse_layers().items():
            moe = stack.shape.moe_of(int(name.split(".")[1]))
            assert moe is not None
            length = stack.shape.length
            yield Sparse(layer, moe, grouping(moe.group).tokens(length), length)


def _check(path: str, sparse: Sparse, decision: LayerDecision) -> None:
    """Raises UserError where a decision cannot be one of this layer."""
    name, choices = sparse.layer.name, sparse.layer.router.choices
    _check_priority(sparse.moe.router, sparse.moe.priority)
    _, length, found = decision.named.shape
    if 0 in decision.named.shape:
        raise UserError(f"--what-if {path}: {name}: holds no token")
    if found != choices:
        raise UserError(
            f"--what-if {path}: {name} has {found} choices a token, the model {choices}; give the "
            "configuration that was recorded"
        )
    low, high = int(decision.named.min()), int(decision.named.max())
    if low < -1 or high >= sparse.experts:
        raise UserError(
            f"--what-if {path}: {name} names expert {low if low < -1 else high}; must be one of "
            f"the model's {sparse.experts}; give the configuration that was recorded"
        )
    if length > sparse.length:
        raise UserError(
            f"--what-if {path}: {name} has rows of {length} tokens; must be at most "
            f"{sparse.length}, those of the model; give the configuration that was recorded"
        )
    unknown = decision.log_probability.isnan() & decision.live
    if sparse.moe.priority == "score" and bool(unknown.any()):
        raise UserError(
            f"--what-if {path}: {name}: holds no probabilities, by which moe.priority = 'score' "
            "serves; record the model with turnout probe --record"
        )


def _check_halves(path: str, layer: TracedLayer, first: int) -> None:
    """Raises UserError where there is nothing to fit on, or to measure on."""
    wanted = layer.kept(None)
    for which, part in (("first", wanted[:first]), ("second", wanted[first:])):
        if not part.any():
            raise UserError(
                f"--what-if {path}: {layer.name}: no token of its {which} half chose an expert; "
                "record more rows"
            )


def _micro_batch(path: str, held: int, group: int, rows: int, exactly: bool) -> int:
    """Rows of a micro-batch: whole groups, and two micro-batches at least."""
    groups = held // group
    if groups < 2:
        raise UserError(
            f"--what-if {path}: holds {held} rows, {groups} routing groups; must hold at least 2, "
            "so that what is fitted on one half is measured on the other; record more rows"
        )
    most = groups // 2 * group
    if not exactly:
        return min(max(rows // group, 1) * group, most)
    if rows % group or rows > most:
        raise UserError(
            f"--rows {rows}: must be a multiple of {group} up to {most}, whole routing groups of "
            f"half of the {held} rows recorded"
        )
    return rows


def _cut(decision: LayerDecision, rows: int) -> LayerDecision:
    parts = {field.name: getattr(decision, field.name)[:rows] for field in fields(decision)}
    return replace(decision, **parts)
