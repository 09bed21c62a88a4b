"""The models that steps and generation are timed on: the Switch form of T5, and its dense twin."""

from dataclasses import dataclass, replace

import torch

from turnout.bench.options import Options
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.model import EncoderDecoderConfig
from turnout.config.moe import MoEConfig
from turnout.models import Model, build

HEAD = 64


@dataclass(frozen=True)
class Size:
    """A model of as many layers in each stack, every other one sparse; without experts, dense."""

    width: int
    layers: int
    vocabulary: int
    experts: int

    @staticmethod
    def of(options: Options, experts: int) -> "Size":
        """With this many experts."""
        return Size(options.width, options.layers, options.vocabulary, experts)

    @property
    def heads(self) -> int:
        """Of ``head_width`` each."""
        return max(self.width // HEAD, 1)

    @property
    def head_width(self) -> int:
        """64, but in models that are narrower."""
        return min(HEAD, self.width)

    @property
    def twin(self) -> "Size":
        """The same without experts."""
        return replace(self, experts=0)

    def config(self) -> EncoderDecoderConfig:
        """Dropless, without dropout; initial weights make the choices far from even."""
        moe = None
        if self.experts:
            moe = MoEConfig(self.experts, init_scale=1.0, train_capacity_factor=None)
        return EncoderDecoderConfig(
            vocab_size=self.vocabulary,
            d_model=self.width,
            encoder_layers=self.layers,
            decoder_layers=self.layers,
            attention=AttentionConfig(self.heads, self.head_width, scaled=False),
            feed_forward=FeedForwardConfig(4 * self.width),
            moe=moe,
        )

    def model(self, dtype: torch.dtype) -> Model:
        """With weights from one seed, float32, to compute in ``dtype``."""
        model = build(self.config(), dtype=dtype)
        model.init_weights(0)
        return model
