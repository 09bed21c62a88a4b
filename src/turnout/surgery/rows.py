"""Rows that models are compared and experts measured on: held-out text, or random tokens.

Axes: B rows, S tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils import _pytree

from turnout.config.errors import require
from turnout.config.model import EncoderDecoderConfig
from turnout.config.routers.base import labels_read
from turnout.config.train import RunConfig
from turnout.data import pipeline
from turnout.data.batch import Batch, Stream
from turnout.data.bits import text_bytes
from turnout.data.progress import Progress
from turnout.data.tokenizers import Tokenizer

RANDOM_ROWS, RANDOM_LENGTH = 4, 48


@dataclass(frozen=True)
class Rows:
    """Batches, and what they are, for the receipt.

    Attributes:
        text: bytes that the targets stand for; 0 for random tokens.
    """

    batches: tuple[Batch, ...]
    what: str
    text: int

    @property
    def count(self) -> int:
        return sum(len(batch.row) for batch in self.batches)


def held_out(
    run: RunConfig,
    tokenizer: Tokenizer | None,
    paths: Sequence[str],
    rows: int,
    progress: Progress | None = None,
) -> Rows:
    """Rows of the run's held-out text, or of the held-out share of ``paths``.

    Raises:
        UserError: the text is not there, or is too short.
    """
    require(rows >= 1, "--rows", rows, "at least 1")
    data = run.data
    if paths:
        data = replace(data, paths=tuple(paths), mixture=None)
    asked = replace(run, data=data, train=replace(run.train, eval_rows=rows))
    found = tuple(pipeline.build(asked, tokenizer, progress).validation())
    what = "held-out rows of the run's text"
    if paths:
        what = f"held-out rows of {' '.join(paths)}"
    return Rows(found, what, text_bytes(found))


def random_rows(run: RunConfig, seed: int = 0) -> Rows:
    """A few rows of random tokens, with labels where routers read them."""
    generator = torch.Generator().manual_seed(seed)
    count = RANDOM_ROWS if run.model.moe is None else max(RANDOM_ROWS, run.model.moe.group.rows)
    shape = (count, RANDOM_LENGTH)
    ids, read = (
        torch.randint(2, max(run.model.vocab_size, 3), shape, generator=generator).clamp(
            max=run.model.vocab_size - 1
        )
        for _ in range(2)
    )
    mask = torch.ones(shape, dtype=torch.bool)
    row = torch.arange(count)
    batch = Batch(
        decoder=_stream(ids, mask),
        targets=ids.roll(-1, 1),
        target_mask=mask,
        keys=row,
        row=row,
        encoder=_stream(read, mask) if isinstance(run.model, EncoderDecoderConfig) else None,
        labels=_labels(run, row),
    )
    return Rows((batch,), f"rows of random tokens (seed {seed})", 0)


def relabelled(batch: Batch, labels: Sequence[int] | None) -> Batch:
    """The same rows with the labels that another model has for them."""
    if labels is None or batch.labels is None:
        return batch
    return replace(batch, labels=torch.tensor(labels)[batch.labels])


def of_old(rows: Rows, labels: Sequence[int] | None) -> Rows:
    """The rows whose labels both models know, as the old one reads them."""
    if labels is None:
        return rows
    found = (known(batch, len(labels)) for batch in rows.batches)
    return replace(
        rows, batches=tuple(relabelled(each, labels) for each in found if each is not None)
    )


def known(batch: Batch, labels: int) -> Batch | None:
    """The rows whose label is below ``labels``, all where rows have none; None without any."""
    if batch.labels is None:
        return batch
    keep = batch.labels < labels
    if not bool(keep.any()):
        return None
    some: Batch = _pytree.tree_map(
        lambda leaf: leaf[keep] if isinstance(leaf, Tensor) else leaf, batch
    )
    return some


def _labels(run: RunConfig, row: Int[Tensor, " B"]) -> Int[Tensor, " B"] | None:
    moe = run.model.moe
    if moe is None:
        return None
    routers = [each for each in (moe.router, moe.decoder_router) if each is not None]
    read = [found[1] for router in routers if (found := labels_read(router)) is not None]
    return row % min(read) if read else None


def _stream(ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Stream:
    position = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Stream(ids=ids, mask=mask, segment=mask.long(), position=position)
