"""What every objective's rows have in common. Axes: B batch, S sequence, R rows, N tokens."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Integer
from torch import Tensor

from turnout.data.batch import Stream
from turnout.pytree import pytree


@pytree()
@dataclass(frozen=True)
class Examples:
    """Rows of training text: a Batch without what depends on the step."""

    decoder: Stream
    targets: Int[Tensor, "B S"]
    target_mask: Bool[Tensor, "B S"]
    encoder: Stream | None = None


class RowSource(ABC):
    """A fixed, numbered list of rows; any of them can be read at any time."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """Rows ``index`` (each below ``num_rows``) as the rows of global number ``number``.

        What is random about a row (its spans) depends on its global number, so that the next
        epoch draws anew.
        """

    @abstractmethod
    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """Sorted offsets, among the tokens of the side's documents, of those that are targets."""


def tensor(array: Integer[np.ndarray, "..."]) -> Int[Tensor, "..."]:
    """int64 tensor of an integer array; the array is copied."""
    return torch.from_numpy(array.astype(np.int64))


def whole(ids: Integer[np.ndarray, "B S"]) -> Stream:
    """A stream without padding in which each row is one segment."""
    mask = torch.ones(ids.shape, dtype=torch.bool)
    position = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
    return Stream(tensor(ids), mask, mask.to(torch.int64), position)


def padded(ids: Integer[np.ndarray, "B S"], lengths: Int64[np.ndarray, " B"]) -> Stream:
    """A stream in which the first ``lengths`` tokens of a row are its one segment."""
    place = np.arange(ids.shape[1])
    real = place < lengths[:, None]
    mask = torch.from_numpy(real)
    return Stream(tensor(ids * real), mask, mask.to(torch.int64), tensor(place * real))


def draw_below(
    bound: Int64[np.ndarray, "*N"], key: Int64[np.ndarray, "*N"]
) -> Int64[np.ndarray, "*N"]:
    """A number from 0 to ``bound - 1`` for every key, all equally likely; bounds are at least 1.

    The remainder of a 64-bit key favours small numbers by less than ``bound`` in 2^64.
    """
    drawn: Int64[np.ndarray, "*N"] = (key.view(np.uint64) % bound.astype(np.uint64)).astype(
        np.int64
    )
    return drawn
