"""A checkpoint beside a model: every tensor has a use and every parameter a source, or it fails."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from turnout import models
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.convert.families import FAMILIES, Family, Read
from turnout.convert.families.base import Layout
from turnout.convert.folder import Foreign
from turnout.convert.imitation import with_imitation
from turnout.convert.rules import Bound, bind


@dataclass(frozen=True)
class Mapped:
    """A checkpoint whose every tensor is accounted for; nothing of it has been read.

    Attributes:
        bound: the rules with names.
        notes: what was left out or not understood, and why; for people.
    """

    family: Family
    config: ModelConfig
    layout: Layout
    bound: tuple[Bound, ...]
    notes: tuple[str, ...]


def map_foreign(foreign: Foreign, imitate: str | None = None) -> Mapped:
    """Finds the family and checks names and shapes.

    Args:
        imitate: whose way of evaluating to take over where it is not the paper's.

    Raises:
        UserError: one line: an unknown family, a field without a model for it, a tensor that is
            missing, left over or of another shape; nothing to imitate.
    """
    family = family_of(foreign.config)
    values = Read(foreign.config)
    config = with_imitation(family, family.read(values, foreign.names), values, imitate)
    layout = family.layout(foreign.names)
    bound = bind(family.rules(config, layout, foreign.names), config.stacks())
    used = {name for each in bound for name in each.foreign}
    missing = sorted(used - foreign.names)
    if missing:
        raise UserError(f"{foreign.folder}: lacks {_few(missing)}, which {family.model_type} needs")
    notes = list(values.remarks)
    notes += [f"{name}: not known to this version, and without effect" for name in values.unread()]
    notes += _left_out(foreign, family, config, used)
    _check_shapes(foreign, config, bound)
    notes += [foreign.note] if foreign.note else []
    return Mapped(family, config, layout, tuple(bound), tuple(notes))


def family_of(config: Mapping[str, object]) -> Family:
    """Raises UserError where there is none."""
    kind = config.get("model_type")
    for family in FAMILIES:
        if family.model_type == kind:
            classes = config.get("architectures") or family.architectures
            if not isinstance(classes, list | tuple) or classes[0] not in family.architectures:
                raise UserError(
                    f"config.json: architectures = {classes!r}: must be "
                    f"{' or '.join(family.architectures)}, whose checkpoints are whole"
                )
            return family
    own = "; a class that it names (auto_map) is never imported" if "auto_map" in config else ""
    raise UserError(
        f"config.json: model_type = {kind!r}: must be one of "
        f"{', '.join(family.model_type for family in FAMILIES)}{own}"
    )


def parameters(config: ModelConfig) -> dict[str, Tensor]:
    """Every tensor of a model's checkpoint, on the meta device."""
    model = models.build(config, device="meta")
    return dict(model.state_dict(keep_vars=True))


def natives(foreign: Foreign, mapped: Mapped) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, in the order of the rules; no more than one rule's are in memory.

    Raises:
        UserError: a tensor that must be a copy is none.
    """
    for each in mapped.bound:
        tensors = made(foreign, each)
        for name in each.native:
            yield name, tensors.pop(0)  # of which nothing is kept here
    check_copies(foreign, mapped)


def made(foreign: Foreign, each: Bound) -> list[Tensor]:
    """Our tensors of one rule."""
    tensors = each.operation.to_native(*_read(foreign, each))
    assert len(tensors) == len(each.native)
    return tensors


def _read(foreign: Foreign, each: Bound) -> tuple[Iterator[Tensor], int]:
    """What a rule takes, one at a time, and of how many."""
    if not each.operation.by_entry:
        return map(foreign.read, each.foreign), len(each.foreign)
    (name,) = each.foreign
    return foreign.tensors[name].entries(), foreign.shape(name)[0]


def check_copies(foreign: Foreign, mapped: Mapped) -> None:
    """Raises UserError where a tensor that must be a copy is none."""
    used = {name for each in mapped.bound for name in each.foreign}
    for name in sorted(foreign.names - used):
        original = _first(mapped.family.copies, name)
        if original is not None and not torch.equal(foreign.read(name), foreign.read(original)):
            raise UserError(
                f"{foreign.folder}: {name} differs from {original}, of which it must be a copy in "
                f"a {mapped.family.model_type} with these settings"
            )


def _left_out(foreign: Foreign, family: Family, config: ModelConfig, used: set[str]) -> list[str]:
    notes, stray = [], []
    for name in sorted(foreign.names - used):
        reason = _first(family.ignored, name) or _beyond(family, config, name)
        if 0 in foreign.shape(name):
            reason = "it has no elements"  # as of shared experts where there are none of them
        if reason is not None:
            notes.append(f"{name}: left out ({reason})")
        elif _first(family.copies, name) is None:
            stray.append(name)
    if stray:
        raise UserError(
            f"{foreign.folder}: holds {_few(stray)}, which no parameter of this "
            f"{family.model_type} takes"
        )
    return notes


def _beyond(family: Family, config: ModelConfig, name: str) -> str | None:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    (stack, *_) = config.stacks()
    last = layer is not None and int(layer.group(1)) >= stack.num_layers
    return family.beyond if last and family.beyond else None


def _check_shapes(foreign: Foreign, config: ModelConfig, bound: Sequence[Bound]) -> None:
    wanted = parameters(config)
    filled: set[str] = set()
    for each in bound:
        filled.update(each.native)
        ours = [wanted[name] for name in each.native]
        theirs = each.operation.to_foreign(ours)
        for name, expected in zip(each.foreign, theirs, strict=True):
            found = foreign.shape(name)
            if found != tuple(expected.shape):
                raise UserError(
                    f"{foreign.folder}: {name} is {list(found)}, must be {list(expected.shape)} by "
                    "config.json"
                )
    unfilled = sorted(wanted.keys() - filled)
    if unfilled:
        raise AssertionError(f"the table fills no {_few(unfilled)}")


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    return next((found for regex, found in patterns.items() if re.fullmatch(regex, name)), None)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
