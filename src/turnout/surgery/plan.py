"""From an operation and its sources to what is written: every new tensor has a maker and a shape,
before anything is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from turnout.checkpoint.stream import Planned
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.convert.mapping import parameters
from turnout.convert.rules import BoundBy
from turnout.convert.source import Source
from turnout.surgery.base import Rules, Surgery, one
from turnout.surgery.changes import Change, Kept


@dataclass(frozen=True)
class Plan:
    """What is to be written, nothing of which has been read.

    Attributes:
        run: the new configuration.
        rules: one for each tensor of the new model, in its order.
        planned: the tensors.
        left: old tensors of which nothing is made.
        parameters: the names of those that train.
        widened: the names of those that are wider than what they are made of.
    """

    run: RunConfig
    rules: Rules
    planned: tuple[Planned, ...]
    left: tuple[str, ...]
    parameters: frozenset[str]
    widened: tuple[str, ...] = ()

    def tensors(self, sources: Sequence[Source]) -> Iterator[Tensor]:
        """The new tensors; in memory are those of one rule."""
        for rule, planned in zip(self.rules, self.planned, strict=True):
            yield made(rule, sources).to(planned.dtype)


def plan(surgery: Surgery, run: RunConfig, new: RunConfig, sources: Sequence[Source]) -> Plan:
    """The plan of turning ``run``, whose weights ``sources`` hold, into ``new``.

    Raises:
        UserError: a tensor that nothing makes, or of another shape.
    """
    wanted = parameters(new.model)
    by_name = {rule.native[0]: rule for rule in surgery.rules(run.model, new.model)}
    old = dict.fromkeys(sources[0].names)
    rules: Rules = []
    for name in wanted:
        if name not in by_name and name not in old:
            raise UserError(
                f"{name}: `turnout surgery {surgery.kind}` makes no such tensor; leave out options "
                "that change the model otherwise"
            )
        rules.append(by_name.pop(name) if name in by_name else one(name, [name], Kept()))
    if by_name:
        raise UserError(f"{next(iter(by_name))}: the new model has no such tensor")
    planned = tuple(_planned(rule, wanted[rule.native[0]], sources) for rule in rules)
    used = {name for rule in rules for name in rule.foreign}
    left = tuple(name for name in old if name not in used)
    trained = frozenset(n for n, tensor in wanted.items() if isinstance(tensor, nn.Parameter))
    widened = tuple(
        each.name
        for rule, each in zip(rules, planned, strict=True)
        if rule.foreign and each.dtype != _first(rule, sources).dtype
    )
    return Plan(new, rules, planned, left, trained, widened)


def made(rule: BoundBy[Change], sources: Sequence[Source]) -> Tensor:
    """The one tensor of a rule."""
    found = rule.operation.to_native(
        (_source(name, sources).read(_bare(name)) for name in rule.foreign), len(rule.foreign)
    )
    (tensor,) = found
    return tensor


def _planned(rule: BoundBy[Change], wanted: Tensor, sources: Sequence[Source]) -> Planned:
    """The tensor of a rule, its shape made on the meta device."""
    (name,) = rule.native
    shape = tuple(wanted.shape)
    if not rule.foreign:
        return Planned(name, wanted.dtype, shape)
    ours = [_source(each, sources).planned(_bare(each)) for each in rule.foreign]
    first = ours[0]
    for each, other in zip(rule.foreign, ours, strict=True):
        if other.shape != first.shape:
            raise UserError(
                f"{each} is {list(other.shape)}, must be {list(first.shape)} as in the first model"
            )
    meta = (torch.empty(each.shape, dtype=each.dtype, device="meta") for each in ours)
    (found,) = rule.operation.to_native(meta, len(ours))
    if tuple(found.shape) != shape:
        raise UserError(
            f"{rule.foreign[0]} is {list(first.shape)}, of which {name} would be "
            f"{list(found.shape)}; must be {list(shape)}: the checkpoint is of another width"
        )
    return Planned(name, found.dtype, shape)


def _first(rule: BoundBy[Change], sources: Sequence[Source]) -> Planned:
    return _source(rule.foreign[0], sources).planned(_bare(rule.foreign[0]))


def _source(name: str, sources: Sequence[Source]) -> Source:
    number, colon, _ = name.partition(":")
    return sources[int(number)] if colon else sources[0]


def _bare(name: str) -> str:
    return name.rpartition(":")[2]
