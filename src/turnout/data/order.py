"""The order in which a run reads rows. Axes: B batch, R rows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Int64

from turnout.data.keys import permutation
from turnout.data.rows import Examples, RowSource


class RowOrder(ABC):
    """The rows of a run without end; row ``number`` is a function of itself alone."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many different rows there are."""

    @abstractmethod
    def read(self, number: Int64[np.ndarray, " B"]) -> Examples:
        """The rows of these numbers."""

    @abstractmethod
    def labels(self, number: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"] | None:
        """The source of each row, where there are several."""


@final
@dataclass(frozen=True)
class Epochs(RowOrder):
    """All rows of one source again and again, every time in another order."""

    rows: RowSource
    seed: int

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def read(self, number: Int64[np.ndarray, " B"]) -> Examples:
        """Row ``number`` is a row of epoch ``number // R``; see ``RowSource.read``."""
        epoch, place = np.divmod(number, self.rows.num_rows)
        index = np.empty_like(place)
        for each in np.unique(epoch).tolist():
            order = _order(self.rows.num_rows, self.seed, each)
            index[epoch == each] = order[place[epoch == each]]
        return self.rows.read(index, number)

    def labels(self, number: Int64[np.ndarray, " B"]) -> None:
        """There is one source."""
        return


@lru_cache(maxsize=32)
def _order(rows: int, seed: int, epoch: int) -> Int64[np.ndarray, " R"]:
    return permutation(rows, seed, epoch)
