"""Arithmetic of a model over full rows, and the dense sizes that cost as much."""

from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.flops import Flops, decoder_only_flops, encoder_decoder_flops
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig

TRAINING = 3
"""A forward and a backward pass, in forward passes: the backward one multiplies twice as much."""


@singledispatch
def lengths(model: object) -> tuple[int, ...]:
    """The configured tokens of a row in each stack."""
    raise UserError(f"model = {model!r}: no such model family")


@lengths.register
def _(model: DecoderOnlyConfig) -> tuple[int, ...]:
    return (model.length,)


@lengths.register
def _(model: EncoderDecoderConfig) -> tuple[int, ...]:
    return model.encoder_length, model.decoder_length


@singledispatch
def forward_parts(model: object, rows: int) -> Flops:
    """Arithmetic of one forward pass over ``rows`` full rows, by part."""
    raise UserError(f"model = {model!r}: no such model family")


@forward_parts.register
def _(model: DecoderOnlyConfig, rows: int) -> Flops:
    return decoder_only_flops(model, rows, model.length)


@forward_parts.register
def _(model: EncoderDecoderConfig, rows: int) -> Flops:
    return encoder_decoder_flops(model, rows, model.encoder_length, model.decoder_length)


def forward_flops(model: ModelConfig, rows: int) -> int:
    """Arithmetic of one forward pass over ``rows`` full rows."""
    return forward_parts(model, rows).total


def step_flops(model: ModelConfig, rows: int) -> int:
    """Arithmetic of a training step over ``rows`` full rows: three forward passes."""
    return TRAINING * forward_flops(model, rows)


def with_d_ff(model: ModelConfig, d_ff: int) -> ModelConfig:
    """``model`` with dense networks of hidden width ``d_ff``."""
    return replace(model, feed_forward=replace(model.feed_forward, d_ff=d_ff))


def d_ff_of_flops(dense: ModelConfig, flops: int) -> int:
    """The hidden width at which a row through ``dense`` costs nearest to ``flops``."""
    return _solved(dense, flops, forward_flops(dense, 1), forward_flops(_wider(dense), 1))


def d_ff_of_parameters(dense: ModelConfig, parameters: int) -> int:
    """The hidden width at which ``dense`` holds nearest to ``parameters`` parameters."""
    return _solved(dense, parameters, dense.num_params(), _wider(dense).num_params())


@singledispatch
def deepened(model: object, flops: int) -> ModelConfig:
    """``model`` with more layers, such that a row costs nearest to ``flops``."""
    raise UserError(f"model = {model!r}: no such model family")


@deepened.register
def _(model: DecoderOnlyConfig, flops: int) -> ModelConfig:
    one = forward_flops(replace(model, num_layers=model.num_layers + 1), 1)
    cost = one - forward_flops(model, 1)
    more = round((flops - forward_flops(model, 1)) / cost)
    return replace(model, num_layers=model.num_layers + max(more, 1))


@deepened.register
def _(model: EncoderDecoderConfig, flops: int) -> ModelConfig:
    """Both stacks grow in proportion, the encoder a layer at a time."""
    best, layers = model, model.encoder_layers
    while layers == model.encoder_layers or forward_flops(best, 1) < flops:
        layers += 1
        share = layers / model.encoder_layers
        next_ = replace(
            model, encoder_layers=layers, decoder_layers=round(model.decoder_layers * share)
        )
        overshot = forward_flops(next_, 1) - flops
        if best is not model and overshot > flops - forward_flops(best, 1):
            break
        best = next_
    return best


def _wider(dense: ModelConfig) -> ModelConfig:
    return with_d_ff(dense, dense.feed_forward.d_ff + 1)


def _solved(dense: ModelConfig, wanted: int, now: int, one_more: int) -> int:
    """Both counts are linear in the width."""
    return max(dense.feed_forward.d_ff + round((wanted - now) / (one_more - now)), 1)
