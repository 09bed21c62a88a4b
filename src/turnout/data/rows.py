"""What every objective's rows have in common. Axes: B batch, S sequence, R rows, N tokens."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Integer
from torch import Tensor

from turnout.data.batch import Stream


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
