"""What one kind of attention or positions asks of the rest of a model."""

from functools import singledispatch

from turnout.config.attention import Attention, AttentionConfig
from turnout.config.errors import ConfigError, require
from turnout.config.latent_attention import LatentAttention
from turnout.config.positions import RelativeBias, Rotary, Sinusoidal


@singledispatch
def check_positions(positions: object, attention: Attention) -> None:
    """Raise ``ConfigError`` unless ``positions`` go with ``attention``."""
    raise ConfigError("model.positions", positions, "relative_bias, rotary or sinusoidal")


@check_positions.register
def _(positions: RelativeBias | Sinusoidal, attention: Attention) -> None:
    require(
        attention.kind != LatentAttention.kind,
        "model.positions.kind",
        positions.kind,
        "rotary with latent attention, whose keys have a part to be rotated",
    )


@check_positions.register
def _(positions: Rotary, attention: Attention) -> None:
    latent, width = attention.kind == LatentAttention.kind, attention.rotary_dim
    require(width % 2 == 0, "model.attention.head_dim", width, "even with rotary positions")
    rotated = positions.rotated(width)
    require(
        rotated >= 2 and rotated % 2 == 0,
        "model.positions.share",
        positions.share,
        f"such that an even part of a head of {width} is rotated, at least 2",
    )
    require(
        positions.share == 1 or not latent,
        "model.positions.share",
        positions.share,
        "1 with latent attention",
        "attention.qk_rope_head_dim says what is rotated",
    )
    scaling = positions.scaling
    require(
        latent or scaling is None or not scaling.latent_only,
        "model.positions.scaling.mscale_all_dim",
        getattr(scaling, "mscale_all_dim", None),
        "left out without mscale",
        "alone it scales the logits of latent attention, which this model has not",
    )


@singledispatch
def check_layers(attention: object, num_layers: int) -> None:
    """Raise ``ConfigError`` unless what ``attention`` says of layers fits ``num_layers``."""
    raise ConfigError("model.attention", attention, "grouped_query or latent")


@check_layers.register
def _(attention: LatentAttention, num_layers: int) -> None:
    """It says nothing of them."""


@check_layers.register
def _(attention: AttentionConfig, num_layers: int) -> None:
    pattern = list(attention.window_pattern)
    require(
        len(pattern) <= num_layers,
        "model.attention.window_pattern",
        pattern,
        f"no longer than the model's layers ({num_layers})",
    )


@singledispatch
def check_projecting(attention: object) -> None:
    """Raise ``ConfigError`` unless experts may stand in the place of its projections."""
    raise ConfigError("model.attention", attention, "grouped_query or latent")


@check_projecting.register
def _(attention: LatentAttention) -> None:
    raise ConfigError(
        "model.attention.kind",
        attention.kind,
        "grouped_query where experts make attention's projections",
        "or set model.moe.attention to none",
    )


@check_projecting.register
def _(attention: AttentionConfig) -> None:
    require(
        attention.bias == "none",
        "model.attention.bias",
        attention.bias,
        "none where experts make attention's projections",
        "or set model.moe.attention to none",
    )
