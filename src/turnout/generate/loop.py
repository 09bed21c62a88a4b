"""The generation loop, one for both model families. Axes: B rows, S tokens read at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from turnout.config.generation import GenerateOptions
from turnout.data.batch import Batch
from turnout.generate.prompts import batch_of, check_prompts, first_batch, stream_of
from turnout.generate.sampling import choose, row_keys, uniform
from turnout.models.base import Model


@torch.no_grad()
def generate(
    model: Model, prompts: list[list[int]], options: GenerateOptions | None = None
) -> list[list[int]]:
    """Continues every prompt, or answers it where the model has an encoder.

    Prompts of any lengths go through together; each gets the tokens that it gets alone. The
    encoder runs once, and no token is read twice. The model is in evaluation mode meanwhile.

    Returns:
        The new tokens of each prompt, without the prompt and without the token that stopped it.

    Raises:
        UserError: a prompt is empty, too long, or not of this vocabulary.
    """
    options = GenerateOptions() if options is None else options
    check_prompts(model.config, prompts, options)
    if not prompts:
        return []
    with evaluating(model):
        return _collect(_tokens(model, prompts, options), len(prompts), options)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in before."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _tokens(
    model: Model, prompts: list[list[int]], options: GenerateOptions
) -> Iterator[Int[Tensor, " B"]]:
    """The next token of every row, until all have stopped; what follows a stop means nothing."""
    device = next(model.parameters()).device
    keys = row_keys(options.seed, prompts)
    batch = first_batch(model.config, prompts, options, device)
    length = batch.decoder.ids.shape[1] + options.max_new_tokens - 1
    cache = model.empty_cache(len(prompts), length)
    live = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for position in range(options.max_new_tokens):
        output = model(batch, cache=cache)
        cache = output.cache
        token = choose(output.head.logits(output.hidden[:, -1]), options, uniform(keys, position))
        yield token
        live = live & ~_stops(token, options)
        if not bool(live.any()):
            return
        batch = _next(batch, token, live)


def _next(batch: Batch, token: Int[Tensor, " B"], live: Bool[Tensor, " B"]) -> Batch:
    """A batch of one new token a row; rows that have stopped are padding from here on."""
    position = batch.decoder.position[:, -1:] + 1
    new = batch_of(stream_of(token.unsqueeze(1), live.unsqueeze(1), position))
    return replace(new, labels=batch.labels)


def _stops(token: Int[Tensor, " B"], options: GenerateOptions) -> Bool[Tensor, " B"]:
    stops = torch.tensor(options.stop_ids, dtype=token.dtype, device=token.device)
    return torch.isin(token, stops)


def _collect(
    tokens: Iterator[Int[Tensor, " B"]], rows: int, options: GenerateOptions
) -> list[list[int]]:
    results: list[list[int]] = [[] for _ in range(rows)]
    open_rows = set(range(rows))
    for step in tokens:
        for row, token in enumerate(step.tolist()):
            if row in open_rows and token in options.stop_ids:
                open_rows.remove(row)
            elif row in open_rows:
                results[row].append(token)
    return results
