"""Log-likelihoods of rows. Rows go through together and each gets what it gets alone: sparse layers
drop nothing, whatever their evaluation capacity, as in generation. Axes: B rows, S positions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from turnout.data.batch import Batch, Stream
from turnout.data.rows import padded
from turnout.evaluate.form import Row
from turnout.generate.loop import evaluating
from turnout.generate.prompts import batch_of
from turnout.models.base import Model

BATCH_TOKENS = 8192  # places of a batch, padding included
BATCH_ROWS = 64

Tell = Callable[[int, int], None]  # how many rows are done, of how many


@dataclass(frozen=True)
class Likelihood:
    """Of a row's answer.

    Attributes:
        total: log-likelihood, nats, summed in float64.
        greedy: whether each token is the likeliest one where it stands.
    """

    total: float
    greedy: bool


def quiet(done: int, total: int) -> None:
    """Nothing is told."""


@torch.no_grad()
def likelihoods(
    model: Model,
    rows: Sequence[Row],
    *,
    visible: bool = False,
    label: int | None = None,
    together: int = BATCH_ROWS,
    tell: Tell = quiet,
) -> list[Likelihood]:
    """The log-likelihood of the answer of each row, in the order of the rows.

    Args:
        visible: the tokens of a decoder's prompt read each other in both directions.
        label: of every row, for routers that read one.
        together: rows of a batch at most; 1 for models in which padding is routed.
        tell: is told of rows that are done.
    """
    found: dict[int, Likelihood] = {}
    with evaluating(model):
        for index in batches([_length(row) for row in rows], together):
            taken = [rows[i] for i in index]
            found |= zip(index, _scored(model, taken, visible, label), strict=True)
            tell(len(found), len(rows))
    return [found[index] for index in range(len(rows))]


def batches(lengths: Sequence[int], most: int = BATCH_ROWS) -> Iterator[list[int]]:
    """Places of ``lengths``, the longest first, as many together as a batch holds, or ``most``."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS
        if full or len(batch) == most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _length(row: Row) -> int:
    return len(row.encoder) + len(row.prompt) + len(row.answer)


def _scored(
    model: Model, rows: Sequence[Row], visible: bool, label: int | None
) -> list[Likelihood]:
    device = model.embedding.weight.device
    batch = _batch(rows, visible, label, device)
    cache = model.empty_cache(len(rows), batch.decoder.ids.shape[1])
    output = model(batch, cache=cache, observed=False)
    found = []
    for number, row in enumerate(rows):
        first = len(row.prompt) - 1
        states = output.hidden[number, first : first + len(row.answer)]
        # By itself: the width of the vocabulary times one row is all that is ever held.
        logs = output.head.logits(states).log_softmax(-1)
        targets = torch.tensor(row.answer, device=device)
        nats = logs.gather(1, targets.unsqueeze(1)).double().sum()
        found.append(Likelihood(float(nats), bool((logs.argmax(-1) == targets).all())))
    return found


def _batch(rows: Sequence[Row], visible: bool, label: int | None, device: torch.device) -> Batch:
    decoder = _stream([(*row.prompt, *row.answer[:-1]) for row in rows], device)
    if visible:
        prompts = torch.tensor([len(row.prompt) for row in rows], device=device)
        decoder = replace(decoder, visible=decoder.mask & _before(decoder.ids, prompts))
    encoders = [row.encoder for row in rows]
    encoder = _stream(encoders, device) if encoders[0] else None
    return batch_of(decoder, encoder, label=label)


def _before(ids: Int[Tensor, "B S"], count: Int[Tensor, " B"]) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device) < count.unsqueeze(1)


def _stream(rows: Sequence[tuple[int, ...]], device: torch.device) -> Stream:
    """One segment a row, padded on the right."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    stream = padded(ids, lengths)
    return Stream(
        stream.ids.to(device),
        stream.mask.to(device),
        stream.segment.to(device),
        stream.position.to(device),
    )
