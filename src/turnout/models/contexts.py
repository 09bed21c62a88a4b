"""From a stream of the batch to what the routers of its stack may know.

Kinds are resolved when a model is built: a dispatch inside a compiled forward pass would compile
it twice.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import final

from turnout.config.errors import UserError
from turnout.config.moe import DocumentGroup, MoEConfig, RoutingGroup, RowsGroup
from turnout.data.batch import Batch, Stream
from turnout.moe.context import RoutingContext


class Grouping(ABC):
    """How the tokens of a stack form routing groups."""

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

    def context(self, stream: Stream, batch: Batch) -> RoutingContext:
        return RoutingContext.build(
            stream.mask.contiguous(),
            keys=batch.keys,
            rows=self.rows,
            token_ids=stream.ids,
            labels=batch.labels,
            progress=batch.progress,
        )

    def tokens(self, length: int) -> int:
        return self.rows * length


@final
@dataclass(frozen=True)
class ByDocument(Grouping):
    """A group for every segment; a document may fill its row."""

    def context(self, stream: Stream, batch: Batch) -> RoutingContext:
        return RoutingContext.documents(
            stream.mask.contiguous(),
            stream.segment,
            stream.max_segments,
            keys=batch.keys,
            token_ids=stream.ids,
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

    def context(self, stream: Stream, batch: Batch, *, cached: bool) -> RoutingContext:
        """The context of ``stream`` in a pass with or without a cache."""
        if cached:
            return replace(self.steps.context(stream, batch), partial=True)
        return self.whole.context(stream, batch)


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
