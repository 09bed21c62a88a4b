"""One step of a generation, however its tokens are chosen. Axes: B rows, V vocabulary."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.data.batch import Batch
from turnout.generate.logits import adjusted
from turnout.generate.prompts import batch_of, stream_of
from turnout.models.base import Model
from turnout.models.cache import Cache

Ends = Callable[[list[int]], bool]  # whether the new tokens of a row are its last

# The compiler is to take the length of what was read as a variable from the first: else it makes a
# graph for the first length, and a second one for all others; of lengths 0 and 1 it always does.
LENGTH = "L['cache'].used"
FIRST_COMPILED = 2


@torch.no_grad()
def next_logits(
    model: Model, batch: Batch, cache: Cache, options: GenerateOptions, position: int
) -> tuple[Float[Tensor, "B V"], Cache]:
    """The adjusted logits of new token ``position`` of every row, and the cache to go on with.

    Raises:
        UserError: ``options.compile`` where there is no C++ compiler.
    """
    one_each = batch.decoder.ids.shape[1] == 1 and cache.used >= FIRST_COMPILED
    read = _compiled if options.compile and one_each else _read
    logits, cache = read(model, batch, cache)
    return adjusted(logits, cache, options, position), cache


def _read(model: Model, batch: Batch, cache: Cache) -> tuple[Float[Tensor, "B V"], Cache]:
    output = model(batch, cache=cache, observed=False)
    assert output.cache is not None
    return output.head.logits(output.hidden[:, -1]), output.cache


# What calls the graph's kernels is compiled too: calls from Python take as long as small products.
_whole = torch.compile(_read, fullgraph=True, options={"cpp_wrapper": True})


def _compiled(model: Model, batch: Batch, cache: Cache) -> tuple[Float[Tensor, "B V"], Cache]:
    """As ``_read``, by one graph for a model."""
    try:
        with torch.compiler.config.patch(dynamic_sources=LENGTH):  # type: ignore[attr-defined]
            return _whole(model, batch, cache)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if "C++ compiler" not in str(error):
            raise
        raise UserError(
            "compile = true: must be false where no C++ compiler is installed; install g++ or "
            "clang, or leave it out"
        ) from None


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
