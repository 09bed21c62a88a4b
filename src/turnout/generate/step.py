"""One step of a generation, however its tokens are chosen. Axes: B rows, V vocabulary."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.generation import GenerateOptions
from turnout.data.batch import Batch
from turnout.generate.logits import adjusted
from turnout.generate.prompts import batch_of, stream_of
from turnout.models.base import Model
from turnout.models.cache import Cache

Ends = Callable[[list[int]], bool]  # whether the new tokens of a row are its last


@torch.no_grad()
def next_logits(
    model: Model, batch: Batch, cache: Cache, options: GenerateOptions, position: int
) -> tuple[Float[Tensor, "B V"], Cache]:
    """The adjusted logits of new token ``position`` of every row, and the cache to go on with."""
    output = model(batch, cache=cache, observed=False)
    assert output.cache is not None
    logits = output.head.logits(output.hidden[:, -1])
    return adjusted(logits, output.cache, options, position), output.cache


def next_batch(
    batch: Batch,
    token: Int[Tensor, " N"],
    live: Bool[Tensor, " N"],
    rows: Int[Tensor, " N"] | None = None,
) -> Batch:
    """A batch of one new token a row; rows that have stopped are padding from here on.

    ``rows`` says which row of ``batch`` each new one follows, where they are not the same.
    """
    position, labels = batch.decoder.position[:, -1:] + 1, batch.labels
    if rows is not None:
        position = position.index_select(0, rows)
        labels = None if labels is None else labels.index_select(0, rows)
    new = batch_of(stream_of(token.unsqueeze(1), live.unsqueeze(1), position))
    return replace(new, labels=labels)
