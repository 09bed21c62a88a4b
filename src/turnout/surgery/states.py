"""The optimiser's state of the new model, made by the rules that made its weights.

What a new weight's state is made of stands under the old weight's name; state that no rule can
make is left out, and the optimiser begins anew for that weight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from turnout.checkpoint.stream import Planned
from turnout.config.errors import UserError
from turnout.config.optimizers import AdafactorConfig, OptimizerConfig
from turnout.convert.native import AVERAGE, MODEL, Native
from turnout.convert.rules import BoundBy
from turnout.surgery.base import one
from turnout.surgery.changes import Change
from turnout.surgery.plan import Plan

OPTIMIZER = "optimizer."
EXPERTS = ".experts."


@dataclass(frozen=True)
class States:
    """What beside the weights is taken along.

    Attributes:
        rules: one for each tensor, by whole names.
        planned: the tensors.
        scalars: of each weight that has state, its count of steps.
        untrained: weights without.
    """

    rules: tuple[BoundBy[Change], ...]
    planned: tuple[Planned, ...]
    scalars: Mapping[str, Mapping[str, float]]
    untrained: tuple[str, ...]

    def tensors(self, native: Native) -> Iterator[Tensor]:
        """The tensors; in memory are those of one rule."""
        for rule, planned in zip(self.rules, self.planned, strict=True):
            (found,) = rule.operation.to_native(
                map(native.read_as_stored, rule.foreign), len(rule.foreign)
            )
            yield found.to(planned.dtype)


def nothing(plan: Plan) -> States:
    """No state: an optimiser that begins anew."""
    return States((), (), {}, tuple(_trained(plan)))


def taken_along(plan: Plan, native: Native) -> States:
    """The state of a checkpoint, by the rules of the plan.

    Raises:
        UserError: it holds none, or that of another optimiser than the run's.
    """
    if native.run.lora is not None:
        raise UserError(
            f"--optimizer keep: {native.folder} trains adapters, which are merged: its weights "
            "have no state; leave it out, and the optimiser begins anew"
        )
    saved = native.meta.get("optimizer")
    if not saved or not saved["state"]:
        raise UserError(
            f"--optimizer keep: {native.folder} holds no optimiser state; leave it out, and the "
            "optimiser begins anew"
        )
    if saved["kind"] != plan.run.optimizer.kind:
        raise UserError(
            f"optimizer = {plan.run.optimizer.kind!r}: must be {saved['kind']!r} with --optimizer "
            "keep, whose state that is"
        )
    keys: dict[str, list[str]] = {}
    for stored in native.section(OPTIMIZER):
        weight, _, key = stored.removeprefix(OPTIMIZER).rpartition(".")
        keys.setdefault(weight, []).append(key)
    shapes = {each.name: each.shape for each in plan.planned}
    rules: list[BoundBy[Change]] = []
    scalars: dict[str, Mapping[str, float]] = {}
    for rule in plan.rules:
        (name,) = rule.native
        fits = partial(_fits, plan.run.optimizer, name, shapes[name])
        found = _slots(rule, keys, fits)
        if found:
            scalars[name] = saved["state"][rule.foreign[0]]
            rules += found
    untrained = tuple(name for name in _trained(plan) if name not in scalars)
    rules += _average(plan, native)
    planned = tuple(_planned(rule, native) for rule in rules)
    return States(tuple(rules), planned, scalars, untrained)


def _slots(
    rule: BoundBy[Change], keys: Mapping[str, Sequence[str]], fits: Callable[[str], bool]
) -> list[BoundBy[Change]]:
    (name,) = rule.native
    found = []
    for key in keys.get(rule.foreign[0], ()) if rule.foreign else ():
        slot = rule.operation.slot(key)
        if slot is None or not fits(key):
            return []
        old = [f"{OPTIMIZER}{each}.{slot.old}" for each in rule.foreign]
        found.append(one(f"{OPTIMIZER}{name}.{key}", old, slot.change))
    return found


def _fits(config: OptimizerConfig, name: str, shape: tuple[int, ...], key: str) -> bool:
    """Whether the new weight's state has this form: Adafactor factors matrices by their size."""
    if not isinstance(config, AdafactorConfig):
        return True
    inner = len(shape) - (EXPERTS in name)
    factored = inner >= 2 and min(shape[-2:]) >= config.min_factored
    return (key in ("row", "column")) == factored


def _average(plan: Plan, native: Native) -> list[BoundBy[Change]]:
    """The moving averages: of what is drawn anew there are none yet."""
    averaged = frozenset(native.section(AVERAGE))
    if not averaged:
        return []

    def old(name: str) -> str:
        return AVERAGE + name if AVERAGE + name in averaged else MODEL + name

    return [
        one(AVERAGE + rule.native[0], list(map(old, rule.foreign)), rule.operation)
        for rule in plan.rules
        if rule.native[0] in plan.parameters and rule.foreign
    ]


def _trained(plan: Plan) -> Iterator[str]:
    return (each.name for each in plan.planned if each.name in plan.parameters)


def _planned(rule: BoundBy[Change], native: Native) -> Planned:
    (name,) = rule.native
    if not rule.foreign:
        raise AssertionError(f"{name} is made of nothing")
    ours = [native.planned_as_stored(each) for each in rule.foreign]
    meta = (torch.empty(each.shape, dtype=each.dtype, device="meta") for each in ours)
    (found,) = rule.operation.to_native(meta, len(ours))
    return Planned(name, found.dtype, tuple(found.shape))


def described(kind: str, states: States) -> dict[str, Any]:
    """What a checkpoint says of the optimiser."""
    state = {name: dict(own) for name, own in states.scalars.items()}
    return {"kind": kind, "state": state, "untrained": list(states.untrained)}
