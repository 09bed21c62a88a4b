"""The table of a family: which tensors of a checkpoint are which parameters.

A pattern names a tensor; ``{layer}`` counts the blocks of a stack, ``{expert}`` the experts of a
sparse layer, ``{stack}`` is the stack.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from turnout.config.counts import Stack
from turnout.convert.operations import Making, Operation, Same

M = TypeVar("M", bound=Making, covariant=True)
Where = Literal["model", "stack", "every", "dense", "sparse"]


@dataclass(frozen=True)
class RuleBy(Generic[M]):
    """Tensors of ours, tensors of theirs, and how the latter become the former.

    Attributes:
        where: for the model once, once a stack, or for every, every dense or every sparse layer.
        stacks: the stacks it is for; empty means all.
    """

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    operation: M = field(default_factory=Same)  # type: ignore[assignment]
    where: Where = "every"
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoundBy(Generic[M]):
    """A rule with its names filled in."""

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    operation: M


# Those of a conversion go both ways.
Rule = RuleBy[Operation]
Bound = BoundBy[Operation]


def rule(
    native: str | tuple[str, ...],
    foreign: str | tuple[str, ...],
    operation: Operation | None = None,
    where: Where = "every",
    stacks: tuple[str, ...] = (),
) -> Rule:
    """A rule; a name alone stands for a tuple of it."""
    ours, theirs = ((name,) if isinstance(name, str) else name for name in (native, foreign))
    return Rule(ours, theirs, operation or Same(), where, stacks)


def renamed(prefixes: tuple[str, str], names: Mapping[str, str], where: Where) -> list[Rule]:
    """A rule for each name, behind the prefixes of ours and theirs."""
    ours, theirs = prefixes
    return [rule(ours + a, theirs + b, where=where) for a, b in names.items()]


def bind(rules: Iterable[RuleBy[M]], stacks: Sequence[Stack]) -> list[BoundBy[M]]:
    """The rules with the names of a model of these stacks."""
    found: list[BoundBy[M]] = []
    for each in rules:
        if each.where == "model":
            found.append(_bound(each, {}, 0))
            continue
        for stack in stacks:
            if not each.stacks or stack.name in each.stacks:
                found.extend(_of_stack(each, stack))
    return found


def _of_stack(each: RuleBy[M], stack: Stack) -> list[BoundBy[M]]:
    if each.where == "stack":
        return [_bound(each, {"stack": stack.name}, 0)]
    experts = dict(zip(stack.sparse_layers, (moe.num_experts for moe in stack.sparse), strict=True))
    layers = {
        "every": range(stack.num_layers),
        "dense": [layer for layer in range(stack.num_layers) if layer not in experts],
        "sparse": list(experts),
    }[each.where]
    return [
        _bound(each, {"stack": stack.name, "layer": str(layer)}, experts.get(layer, 0))
        for layer in layers
    ]


def _bound(each: RuleBy[M], words: Mapping[str, str], experts: int) -> BoundBy[M]:
    foreign: list[str] = []
    for name in each.foreign:
        if "{expert}" in name:
            foreign += [_filled(name, {**words, "expert": str(e)}) for e in range(experts)]
        else:
            foreign.append(_filled(name, words))
    return BoundBy(
        tuple(_filled(name, words) for name in each.native), tuple(foreign), each.operation
    )


def _filled(name: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        name = name.replace(f"{{{word}}}", value)
    return name
