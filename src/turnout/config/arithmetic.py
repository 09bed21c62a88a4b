"""Arithmetic of a model whatever its family, from its configuration."""

from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig

TRAINING = 3
"""A step costs about this many forward passes: the backward pass takes two."""


@singledispatch
def forward_flops(model: object, rows: int) -> int:
    """Arithmetic of one forward pass over ``rows`` full rows."""
    raise UserError(f"model = {model!r}: no such model family")


@forward_flops.register
def _(model: DecoderOnlyConfig, rows: int) -> int:
    return model.flops(rows, model.length)


@forward_flops.register
def _(model: EncoderDecoderConfig, rows: int) -> int:
    return model.flops(rows, model.encoder_length, model.decoder_length)
