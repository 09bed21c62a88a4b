"""How tensors of a checkpoint become parameters, and back, bit for bit.

Axes: E experts, D width, F hidden width, I inputs, O outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor


class Operation(ABC):
    """Both directions between the tensors of a rule. Either works on the meta device too, which
    is how shapes are checked before anything is read."""

    @abstractmethod
    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        """Our tensors from ``count`` of theirs, which are read one at a time, in order."""

    @abstractmethod
    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        """Theirs, one at a time, in order."""


@final
@dataclass(frozen=True)
class Same(Operation):
    """One tensor by another name."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return list(foreign)

    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        yield native[0]


@final
@dataclass(frozen=True)
class Stacked(Operation):
    """A matrix [O, I] an expert; ours is [E, I, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        matrices = iter(foreign)
        first = next(matrices)
        stack = first.new_empty(count, *reversed(first.shape))
        for number, matrix in enumerate(chain([first], matrices)):
            stack[number] = matrix.T
        return [stack]

    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        for matrix in native[0]:
            yield matrix.T


@final
@dataclass(frozen=True)
class StackedVectors(Operation):
    """A vector [O] an expert; ours is [E, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return [torch.stack(list(foreign))]

    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        yield from native[0]


@final
@dataclass(frozen=True)
class Transposed(Operation):
    """All experts in one tensor [E, O, I]; ours is [E, I, O]."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return [matrix.mT for matrix in foreign]

    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        yield native[0].mT


@final
@dataclass(frozen=True)
class GateUp(Operation):
    """Gate and input matrices of all experts, one behind the other, in one tensor [E, 2 F, D]; ours
    are two of [E, D, F], the gate first."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        (both,) = foreign
        return [half.mT for half in both.chunk(2, dim=1)]

    def to_foreign(self, native: Sequence[Tensor]) -> Iterator[Tensor]:
        yield torch.cat([matrix.mT for matrix in native], dim=1)
