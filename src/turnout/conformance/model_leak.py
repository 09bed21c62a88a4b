"""The leak of a whole model: tokens in, hidden states and decisions out."""

import torch
from torch import Tensor

from turnout.conformance.leak import Leak, measure
from turnout.data.batch import Batch, Stream
from turnout.models.base import Model

Outputs = tuple[Tensor, tuple[Tensor, ...]]


def model_leak(
    model: Model, *, length: int = 24, rows: int = 8, training: bool = False, seed: int = 0
) -> Leak:
    """Leak of a model's decoder over random text, in evaluation or training mode.

    Args:
        length: tokens of a row. Capacity follows from the configured length: in rows that are much
            shorter it never binds, and no leak by it is seen.
        rows: draws at each place.
        training: with the router's noise and the training capacity; dropout is off either way.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    ids, other, read = (
        torch.randint(1, vocabulary, (rows, length + 1), generator=generator) for _ in range(3)
    )
    encoder = _stream(read) if len(model.stacks()) > 1 else None
    was = model.training
    model.train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

    def run(tokens: Tensor) -> Outputs:
        output = model(_batch(tokens, encoder), routing=True)
        assert output.routing is not None
        decisions = zip(output.layers, output.routing.layers, strict=True)
        return output.hidden, tuple(d.expert for stats, d in decisions if stats.stack == "decoder")

    try:
        return measure(run, ids, other)
    finally:
        model.train(was)


def _stream(ids: Tensor) -> Stream:
    position = torch.arange(ids.shape[1]).expand_as(ids)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Stream(ids, mask, mask.long(), position)


def _batch(ids: Tensor, encoder: Stream | None) -> Batch:
    rows = torch.arange(ids.shape[0])
    return Batch(
        decoder=_stream(ids),
        targets=torch.zeros_like(ids),
        target_mask=torch.ones_like(ids, dtype=torch.bool),
        keys=rows * 7919 + 3,
        row=rows,
        encoder=encoder,
        labels=torch.zeros_like(rows),
    )
