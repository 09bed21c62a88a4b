"""How tensors of a checkpoint become parameters, and back, bit for bit.

Axes: E experts, D width, F hidden width, I inputs, O outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor


class Making(ABC):
    """How tensors of a rule are made of others: of a checkpoint of somebody else's, or of another
    model of ours. It works on the meta device too, which is how shapes are checked before anything
    is read.

    Attributes:
        by_entry: whether it takes one tensor of theirs by the entries of its first axis, of which
            an expert's is then in memory and not all.
    """

    by_entry: bool = False

    @abstractmethod
    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        """Our tensors from ``count`` of theirs, or of one's entries, which are read one at a time,
        in order."""


class Operation(Making):
    """Both directions between the tensors of a rule, either of them on the meta device too."""

    @abstractmethod
    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        """Theirs, one at a time, in order, from ours, which are read as they are needed."""


@final
@dataclass(frozen=True)
class Same(Operation):
    """One tensor by another name."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return list(foreign)

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from native


@final
@dataclass(frozen=True)
class Stacked(Operation):
    """A matrix [O, I] an expert; ours is [E, I, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        matrices = iter(foreign)
        first = next(matrices)
        stack = first.new_empty(count, *reversed(first.shape))
        stack[0] = first.T
        del first
        for number in range(1, count):
            stack[number] = next(matrices).T  # without a name, which would keep it for a while
        return [stack]

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        (stack,) = native
        for matrix in stack:
            yield matrix.T


@final
@dataclass(frozen=True)
class StackedVectors(Operation):
    """A vector [O] an expert; ours is [E, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return [torch.stack(list(foreign))]

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        (stack,) = native
        yield from stack


@final
@dataclass(frozen=True)
class Transposed(Operation):
    """All experts in one tensor [E, O, I]; ours is [E, I, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return [matrix.mT for matrix in foreign]

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        for stack in native:
            yield stack.mT


@final
@dataclass(frozen=True)
class GateUp(Operation):
    """Gate and input matrices of all experts, one behind the other, in one tensor [E, 2 F, D]; ours
    are two of [E, D, F], the gate first."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        (both,) = foreign
        return [half.mT for half in both.chunk(2, dim=1)]

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        matrices = iter(native)
        gate = next(matrices)
        experts, width, hidden = gate.shape
        both = gate.new_empty(experts, 2 * hidden, width)
        both[:, :hidden] = gate.mT
        del gate  # before the other one is read
        both[:, hidden:] = next(matrices).mT
        yield both


@final
@dataclass(frozen=True)
class Alternating(Operation):
    """What belongs to gate and input of all experts in one tensor [E, .., 2 F], in turns along the
    last axis, the gate's first; ours are two of [E, .., F]."""

    by_entry = True

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        entries = iter(foreign)
        first = next(entries)
        shape = (count, *first.shape[:-1], first.shape[-1] // 2)
        gate, up = first.new_empty(shape), first.new_empty(shape)
        for number, both in enumerate(chain([first], entries)):
            gate[number], up[number] = both[..., ::2], both[..., 1::2]
        return [gate, up]

    def to_foreign(self, native: Iterable[Tensor]) -> Iterator[Tensor]:
        yield torch.stack(list(native), dim=-1).flatten(-2)
