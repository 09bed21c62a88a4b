"""From a stream of the batch to what the routers of its stack may know.

Kinds are resolved when a model is built: a dispatch inside a compiled forward pass would compile
it twice.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.moe import DocumentGroup, MoEConfig, RoutingGroup, RowsGroup
from turnout.data.batch import Batch, Stream
from turnout.models.cache import Cache
from turnout.moe.context import RoutingContext


class Grouping(ABC):
    """How the tokens of a stack form routing groups.

    Attributes:
        within_row: whether a group never spans rows.
    """

    @property
    @abstractmethod
    def within_row(self) -> bool: ...

    @abstractmethod
    def context(self, stream: Stream, batch: Batch) -> RoutingContext:
        """The context of ``stream``.

        Raises:
            UserError: the batch would cut a group.
        """

    @abstractmethod
    def tokens(self, length: int) -> int:
        """Configured tokens of a group, when rows have ``length``."""


@final
@dataclass(frozen=True)
class ByRows(Grouping):
    """``rows`` whole rows a group."""

    rows: int = 1

    @property
    def within_row(self) -> bool:
        return self.rows == 1

    def context(self, stream: Stream, batch: Batch) -> RoutingContext:
        return RoutingContext.build(
            stream.mask.contiguous(),
            keys=batch.keys,
            rows=self.rows,
            token_ids=stream.ids,
            previous_ids=previous_ids(stream),
            labels=batch.labels,
            progress=batch.progress,
        )

    def tokens(self, length: int) -> int:
        return self.rows * length


@final
@dataclass(frozen=True)
class ByDocument(Grouping):
    """A group for every segment; a document may fill its row."""

    @property
    def within_row(self) -> bool:
        return True

    def context(self, stream: Stream, batch: Batch) -> RoutingContext:
        return RoutingContext.documents(
            stream.mask.contiguous(),
            stream.segment,
            stream.max_segments,
            keys=batch.keys,
            token_ids=stream.ids,
            previous_ids=previous_ids(stream),
            labels=batch.labels,
            progress=batch.progress,
        )

    def tokens(self, length: int) -> int:
        return length


@dataclass(frozen=True)
class Contexts:
    """Makes the contexts of a model: ``whole`` rows, or the ``steps`` taken under a cache.

    A step sees a few tokens of every row, so there each row is a group of its own, and a part of
    one: nothing is dropped, and counts add up to the same sums.
    """

    whole: Grouping
    steps: Grouping = ByRows()

    @staticmethod
    def of(moe: MoEConfig | None) -> "Contexts":
        """Groups as the sparse layers want them; rows where there are none."""
        return Contexts(ByRows() if moe is None else grouping(moe.group))

    def context(
        self, stream: Stream, batch: Batch, cache: Cache | None = None, *, observed: bool = True
    ) -> RoutingContext:
        """The context of ``stream``; with a cache, of the last tokens that it counted in."""
        if cache is None:
            return replace(self.whole.context(stream, batch), observed=observed)
        context, new = self.steps.context(stream, batch), stream.ids.shape[1]
        return replace(
            context,
            partial=True,
            dropless=True,
            observed=observed,
            position=cache.positions(new),
            previous_ids=cache.previous_ids(new),
        )

    def alone(self, stream: Stream, batch: Batch, *, observed: bool = True) -> RoutingContext:
        """The context of whole rows, each by itself, as an encoder reads them once for a cache."""
        context, partial = self.steps.context(stream, batch), not self.whole.within_row
        return replace(context, partial=partial, dropless=True, observed=observed)


def previous_ids(stream: Stream) -> Int[Tensor, "B S"]:
    """The id before each token in its document; -1 before the first, and for padding."""
    follows = (stream.segment[:, 1:] == stream.segment[:, :-1]) & stream.mask[:, :-1]
    before = torch.where(follows & stream.mask[:, 1:], stream.ids[:, :-1], -1)
    return F.pad(before, (1, 0), value=-1)


@singledispatch
def grouping(group: RoutingGroup) -> Grouping:
    """The groups that a configuration asks for."""
    raise UserError(f"moe.group = {group!r}: no such routing group")


@grouping.register
def _(group: RowsGroup) -> Grouping:
    return ByRows(group.rows)


@grouping.register
def _(group: DocumentGroup) -> Grouping:
    return ByDocument()
