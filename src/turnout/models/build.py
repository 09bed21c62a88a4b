"""From a configuration to a model, by the configuration's class."""

from functools import singledispatch

import torch

from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.models.base import Model
from turnout.models.decoder_only import DecoderOnly
from turnout.models.encoder_decoder import EncoderDecoder


def build(
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    recompute: bool = False,
    device: str | torch.device = "cpu",
) -> Model:
    """The model of ``config``, its weights not yet filled: call ``model.init_weights(seed)``.

    Parameters are float32 whatever ``dtype``, the dtype of the computation. On ``meta`` no
    memory is taken, whatever the size.
    """
    with torch.device(device):
        return construct(config, dtype=dtype, recompute=recompute)


@singledispatch
def construct(config: ModelConfig, *, dtype: torch.dtype, recompute: bool) -> Model:
    """The model of the family that ``config`` belongs to, on the current default device."""
    raise UserError(f"model = {config!r}: no such model family")


@construct.register
def _(config: EncoderDecoderConfig, *, dtype: torch.dtype, recompute: bool) -> Model:
    return EncoderDecoder(config, dtype=dtype, recompute=recompute)


@construct.register
def _(config: DecoderOnlyConfig, *, dtype: torch.dtype, recompute: bool) -> Model:
    return DecoderOnly(config, dtype=dtype, recompute=recompute)
