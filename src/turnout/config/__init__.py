"""What a run is: frozen dataclasses, presets, TOML. Nothing here imports torch."""

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig, Placement, RowsGroup
from turnout.config.train import RunConfig

__all__ = [
    "AttentionConfig",
    "ConfigError",
    "DecoderOnlyConfig",
    "DocumentGroup",
    "EncoderDecoderConfig",
    "FeedForwardConfig",
    "MoEConfig",
    "ModelConfig",
    "Placement",
    "RowsGroup",
    "RunConfig",
    "UserError",
]
