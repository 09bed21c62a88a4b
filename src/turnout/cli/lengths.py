"""What fits into a model, by its family. Imports no torch."""

from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig


@singledispatch
def room(model: object, prompt_tokens: int, most: int) -> int:
    """New tokens that fit behind a prompt, from 1 to ``most``."""
    raise UserError(f"model = {model!r}: no such model family")


@room.register
def _(model: DecoderOnlyConfig, prompt_tokens: int, most: int) -> int:
    return max(min(model.length - prompt_tokens, most), 1)


@room.register
def _(model: EncoderDecoderConfig, prompt_tokens: int, most: int) -> int:
    return min(model.decoder_length, most)
