"""From prompts to the first batch of a generation, by the kind of model.

Axes: B rows, S longest prompt.
"""

from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.generation import GenerateOptions
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.data.batch import Batch, Stream


def check_prompts(config: ModelConfig, prompts: list[list[int]], options: GenerateOptions) -> None:
    """Refuses what the model cannot read.

    Raises:
        UserError: a prompt is empty, too long, or holds an id outside the vocabulary.
    """
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {number} is empty: give at least one token")
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= config.vocab_size:
            raise UserError(
                f"prompt {number} holds id {low if low < 0 else high}: "
                f"ids are 0 to {config.vocab_size - 1}; was it encoded by another tokenizer?"
            )
        check_length(config, number, len(prompt), options.max_new_tokens)


@singledispatch
def check_length(config: ModelConfig, number: int, tokens: int, new: int) -> None:
    """Raises ``UserError`` where prompt and continuation exceed the configured length."""
    raise UserError(f"model = {config!r}: no such model family")


@check_length.register
def _(config: DecoderOnlyConfig, number: int, tokens: int, new: int) -> None:
    if tokens + new > config.length:
        raise UserError(
            f"prompt {number} has {tokens} tokens: with max_new_tokens {new} that is more than "
            f"model.length {config.length}; shorten it or lower max_new_tokens"
        )


@check_length.register
def _(config: EncoderDecoderConfig, number: int, tokens: int, new: int) -> None:
    if tokens > config.encoder_length:
        raise UserError(
            f"prompt {number} has {tokens} tokens: more than model.encoder_length "
            f"{config.encoder_length}; shorten it"
        )
    if new > config.decoder_length:
        raise UserError(
            f"max_new_tokens = {new}: more than model.decoder_length {config.decoder_length}; "
            "lower it"
        )


@singledispatch
def first_batch(
    config: ModelConfig, prompts: list[list[int]], options: GenerateOptions, device: torch.device
) -> Batch:
    """What the model reads before it writes its first token; prompts are padded on the left."""
    raise UserError(f"model = {config!r}: no such model family")


@first_batch.register
def _(
    config: DecoderOnlyConfig,
    prompts: list[list[int]],
    options: GenerateOptions,
    device: torch.device,
) -> Batch:
    stream = left_padded(prompts, device)
    stream = replace(stream, visible=stream.mask) if options.visible_prompt else stream
    return batch_of(stream, label=options.label)


@first_batch.register
def _(
    config: EncoderDecoderConfig,
    prompts: list[list[int]],
    options: GenerateOptions,
    device: torch.device,
) -> Batch:
    first = left_padded([[options.start_id]] * len(prompts), device)
    return batch_of(first, left_padded(prompts, device), label=options.label)


def left_padded(rows: list[list[int]], device: torch.device) -> Stream:
    """The rows as one stream, aligned at their ends."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    slot = torch.arange(length, device=device) - (length - lengths.unsqueeze(1))
    return stream_of(ids, slot >= 0, slot.clamp(min=0))


def stream_of(ids: Tensor, mask: Tensor, position: Tensor) -> Stream:
    """A stream of rows with one segment each."""
    return Stream(ids=ids, mask=mask, segment=mask.long(), position=position)


def batch_of(decoder: Stream, encoder: Stream | None = None, *, label: int | None = None) -> Batch:
    """A batch without targets; every row has the ``label``, if there is one."""
    row = torch.arange(decoder.ids.shape[0], device=decoder.ids.device)
    return Batch(
        decoder=decoder,
        targets=torch.zeros_like(decoder.ids),
        target_mask=torch.zeros_like(decoder.mask),
        keys=row,
        row=row,
        encoder=encoder,
        labels=None if label is None else torch.full_like(row, label),
    )
