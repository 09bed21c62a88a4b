"""From a stream of the batch to what the routers of its stack may know."""

from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.moe import DocumentGroup, MoEConfig, RoutingGroup, RowsGroup
from turnout.data.batch import Batch, Stream
from turnout.moe.context import RoutingContext


def routing_context(
    stream: Stream, batch: Batch, moe: MoEConfig | None, *, cached: bool = False
) -> RoutingContext:
    """The context of ``stream``, grouped as the configuration says.

    Under a KV cache a pass sees a few tokens of every row, so each row is a group of its own:
    evaluation drops nothing, and counts add up to the same sums.
    """
    if moe is None or cached:
        return grouped(RowsGroup(), stream, batch)
    return grouped(moe.group, stream, batch)


def group_tokens(moe: MoEConfig, length: int) -> int:
    """Configured tokens of a routing group; a document may fill its row."""
    return _rows(moe.group) * length


@singledispatch
def grouped(group: RoutingGroup, stream: Stream, batch: Batch) -> RoutingContext:
    """The context of ``stream`` with routing groups of the given kind."""
    raise UserError(f"moe.group = {group!r}: no such routing group")


@grouped.register
def _(group: RowsGroup, stream: Stream, batch: Batch) -> RoutingContext:
    return RoutingContext.build(
        stream.mask.contiguous(),
        keys=batch.keys,
        rows=group.rows,
        token_ids=stream.ids,
        labels=batch.labels,
        progress=batch.progress,
    )


@grouped.register
def _(group: DocumentGroup, stream: Stream, batch: Batch) -> RoutingContext:
    return RoutingContext.documents(
        stream.mask.contiguous(),
        stream.segment,
        stream.max_segments,
        keys=batch.keys,
        token_ids=stream.ids,
        labels=batch.labels,
        progress=batch.progress,
    )


@singledispatch
def _rows(group: RoutingGroup) -> int:
    raise UserError(f"moe.group = {group!r}: no such routing group")


@_rows.register
def _(group: RowsGroup) -> int:
    return group.rows


@_rows.register
def _(group: DocumentGroup) -> int:
    return 1
