"""How a tensor of a checkpoint lies in its files, and what it is once read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from turnout.checkpoint.stream import TensorPlace, read_tensor

Place = tuple[Path, TensorPlace]  # a file, and where in it a tensor lies
Places = Mapping[str, Place]


class Stored(ABC):
    """A tensor that can be read, dequantised where it must be."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of what is read."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of what is read."""

    @abstractmethod
    def read(self) -> Tensor:
        """All of it, in memory of its own."""

    @abstractmethod
    def entries(self) -> Iterator[Tensor]:
        """The entries of its first axis, one at a time."""


@final
@dataclass(frozen=True)
class Plain(Stored):
    """The numbers as they are."""

    place: Place

    @property
    def dtype(self) -> torch.dtype:
        return self.place[1].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place[1].shape

    def read(self) -> Tensor:
        return read_tensor(*self.place)

    def entries(self) -> Iterator[Tensor]:
        path, place = self.place
        for number in range(place.shape[0]):
            yield read_tensor(path, place.entry(number))


@dataclass(frozen=True)
class Quantised:
    """The weights of a checkpoint that are not kept as the numbers they stand for.

    Attributes:
        weights: by the name of what is read.
        parts: tensors of the files that are nothing by themselves.
        note: what becomes of them, for people; empty where there are none.
    """

    weights: Mapping[str, Stored]
    parts: frozenset[str]
    note: str
