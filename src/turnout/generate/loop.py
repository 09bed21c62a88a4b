"""The generation loop, one for both model families. Axes: B rows, S tokens read at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from turnout.config.errors import require
from turnout.config.generation import GenerateOptions
from turnout.generate.beams import beam_search
from turnout.generate.prompts import check_prompts, first_batch
from turnout.generate.sampling import choose, row_keys, uniform
from turnout.generate.step import Ends, next_batch, next_logits
from turnout.models.base import Model
from turnout.models.prepared import prepared

Step = list[int | None]  # the new token of each row; None where the row has ended


def generate(
    model: Model,
    prompts: list[list[int]],
    options: GenerateOptions | None = None,
    *,
    ends: Ends | None = None,
) -> list[list[int]]:
    """Continues every prompt, or answers it where the model has an encoder.

    Prompts of any lengths go through together; each gets the tokens that it gets alone. The
    encoder runs once, and no token is read twice. The model is in evaluation mode meanwhile, and
    in less than float32 its weights are cast once; ``models.prepared(model)`` casts once for all
    and packs matrices, for many calls or long texts.

    Args:
        ends: asked after every token of a row, with all its new tokens; True ends the row.

    Returns:
        The new tokens of each prompt, without the prompt and without the stop token that ended it.

    Raises:
        UserError: a prompt is empty, too long, or not of this vocabulary.
    """
    options = GenerateOptions() if options is None else options
    if options.num_beams > 1:
        check_prompts(model.config, prompts, options)
        with evaluating(model):
            ready = _ready(model, options)
            return beam_search(ready, prompts, options, _never if ends is None else ends)
    written: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, options, ends=ends):
        for tokens, token in zip(written, step, strict=True):
            if token is not None:
                tokens.append(token)
    return written


def stream(
    model: Model,
    prompts: list[list[int]],
    options: GenerateOptions | None = None,
    *,
    ends: Ends | None = None,
) -> Iterator[Step]:
    """As ``generate``, token by token: each step has the new token of every row, None where the
    row has ended.

    The model is in evaluation mode until the iterator is exhausted or closed.

    Raises:
        UserError: as ``generate``, at once; or there are several beams, none of which is the
            answer before all have ended.
    """
    options = GenerateOptions() if options is None else options
    require(options.num_beams == 1, "num_beams", options.num_beams, "1 to stream tokens")
    check_prompts(model.config, prompts, options)
    return _steps(model, prompts, options, _never if ends is None else ends)


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


def _steps(
    model: Model, prompts: list[list[int]], options: GenerateOptions, ends: Ends
) -> Iterator[Step]:
    if not prompts:
        return
    written: list[list[int]] = [[] for _ in prompts]
    live = [True] * len(prompts)
    with evaluating(model):
        tokens = _tokens(_ready(model, options), prompts, options, live)
        for token in tokens:
            step: Step = [None] * len(prompts)
            for row, new in enumerate(token.tolist()):
                if live[row] and new in options.stop_ids:
                    live[row] = False
                elif live[row]:
                    step[row] = new
                    written[row].append(new)
                    live[row] = not ends(written[row])
            yield step
            if not any(live):
                return


def _ready(model: Model, options: GenerateOptions) -> Model:
    """The model with its weights cast; a copy would be compiled anew at every call."""
    ready = prepared(model, pack=False)
    require(
        not options.compile or ready is model,
        "compile",
        True,
        f"False for a model of {str(model.dtype).removeprefix('torch.')} that is not prepared",
        "make it ready once with turnout.models.prepared(model), and generate with that",
    )
    return ready


def _tokens(
    model: Model, prompts: list[list[int]], options: GenerateOptions, live: list[bool]
) -> Iterator[Int[Tensor, " B"]]:
    """The next token of every row; what follows where a row is not ``live`` means nothing.

    ``live`` is read anew after every token.
    """
    device = next(model.parameters()).device
    keys = row_keys(options.seed, prompts)
    batch = first_batch(model.config, prompts, options, device)
    length = batch.decoder.ids.shape[1] + options.max_new_tokens
    cache = model.empty_cache(len(prompts), length)
    for position in range(options.max_new_tokens):
        logits, cache = next_logits(model, batch, cache, options, position)
        draw = uniform(keys, position) if options.temperature else None
        token = choose(logits, options, draw)
        yield token
        batch = next_batch(batch, token, torch.tensor(live, device=device))


def _never(tokens: list[int]) -> bool:
    return False
