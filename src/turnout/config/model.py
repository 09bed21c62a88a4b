"""The two model families; a published model is a preset over them, never a class of its own."""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from turnout.config import counts, flops
from turnout.config.attention import Attention, AttentionConfig
from turnout.config.attention_checks import check_layers, check_positions, check_projecting
from turnout.config.errors import ConfigError, check_words, require
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import FanInInit, Initialisation, NormalInit
from turnout.config.latent_attention import LatentAttention
from turnout.config.moe import MoEConfig
from turnout.config.norms import BIASED, NormName
from turnout.config.positions import Positions, RelativeBias, Rotary, Sinusoidal
from turnout.config.routers import ReinforceRouter

__all__ = [
    "AttentionConfig",
    "DecoderOnlyConfig",
    "EncoderDecoderConfig",
    "FanInInit",
    "Initialisation",
    "LatentAttention",
    "ModelConfig",
    "Multipliers",
    "NormalInit",
    "Positions",
    "RelativeBias",
    "Rotary",
    "Sinusoidal",
]


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """T5 1.0, T5 1.1, mT5, Switch, ST-MoE, NLLB-MoE.

    ``encoder_length`` and ``decoder_length`` are the configured tokens of a row: expert capacity
    follows from them. ``tied`` shares the embedding with the head and, where embeddings start at
    std 1, scales the logits by d_model^-0.5 (T5 1.0). ``norm`` is RMSNorm, or ``layer``: mean
    and variance with scale and bias. ``scaled_embedding`` multiplies embeddings by sqrt(d_model)
    (both: M2M-100, NLLB-MoE).
    """

    kind: ClassVar[str] = "encoder_decoder"
    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None = None
    positions: RelativeBias | Sinusoidal = field(default_factory=RelativeBias)
    initialisation: Initialisation = field(default_factory=FanInInit)
    encoder_length: int = 512
    decoder_length: int = 114
    dropout: float = 0.0
    tied: bool = True
    norm_epsilon: float = 1e-6
    norm: NormName = "rms"
    scaled_embedding: bool = False

    def __post_init__(self) -> None:
        check_words(self, "model")
        _check_common(self.vocab_size, self.d_model, self.dropout, self.norm_epsilon)
        _check_width(self.positions, self.d_model)
        for name in ("encoder_layers", "decoder_layers", "encoder_length", "decoder_length"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        _check_placement(self.moe, self.stacks())
        if self.moe is not None and self.moe.in_attention:
            check_projecting(self.attention)
        encoder = _moe_of_stack(self.moe, decoder=False)
        require(
            encoder is None or encoder.router.kind != ReinforceRouter.kind,
            "model.moe.router.kind",
            ReinforceRouter.kind,
            "another router in an encoder, whose tokens are rewarded by no target of their own",
            "give it to moe.decoder_router, and the encoder a router that learns otherwise",
        )
        require(
            self.attention.window is None,
            "model.attention.window",
            self.attention.window,
            "none in an encoder_decoder, whose encoder reads both ways",
        )

    def dense_twin(self) -> "EncoderDecoderConfig":
        """The same model with a dense network in place of every sparse layer."""
        return replace(self, moe=None)

    def stacks(self) -> tuple[counts.Stack, ...]:
        """The encoder and the decoder, as the counts see them."""
        common = (self.d_model, self.attention, self.feed_forward)
        encoder, decoder = (_moe_of_stack(self.moe, decoder) for decoder in (False, True))
        positions, biased = self.positions, self.norm in BIASED
        return (
            counts.Stack(
                "encoder", self.encoder_layers, *common, encoder, positions, False, biased
            ),
            counts.Stack("decoder", self.decoder_layers, *common, decoder, positions, True, biased),
        )

    def param_count(self) -> counts.ParamCount:
        """Total and active parameters by component."""
        return counts.encoder_decoder_params(self)

    def num_params(self) -> int:
        return self.param_count().total

    def num_active_params(self) -> int:
        """Parameters that a token passes, embeddings and head included once each."""
        return self.param_count().active

    def flops(self, batch: int, encoder_length: int, decoder_length: int) -> int:
        """Arithmetic of one forward pass, a multiply-add counted as two, nothing dropped."""
        return flops.encoder_decoder_flops(self, batch, encoder_length, decoder_length).total


@dataclass(frozen=True)
class Multipliers:
    """Constants of Granite: factors on embeddings, on what a sub-layer adds and on the logits of
    attention (None: by head_dim, as ``attention.scaled`` says); what the head's are divided by."""

    embedding: float = 1.0
    residual: float = 1.0
    attention: float | None = None
    logits_divisor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("embedding", "residual", "attention", "logits_divisor"):
            value = getattr(self, name)
            ok = value is None or (value > 0 and math.isfinite(value))
            require(ok, f"multipliers.{name}", value, "above 0")


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """GLaM, Mixtral, OLMoE, Qwen3-MoE, DeepSeekMoE, Granite-MoE, gpt-oss, the demo's small models.

    ``length`` is the configured tokens of a row: expert capacity follows from it.
    """

    kind: ClassVar[str] = "decoder_only"
    vocab_size: int
    d_model: int
    num_layers: int
    attention: Attention
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None = None
    positions: Positions = field(default_factory=Rotary)
    initialisation: Initialisation = field(default_factory=NormalInit)
    length: int = 1024
    dropout: float = 0.0
    tied: bool = False
    norm_epsilon: float = 1e-6
    multipliers: Multipliers = field(default_factory=Multipliers)
    norm: NormName = "rms"

    def __post_init__(self) -> None:
        check_words(self, "model")
        _check_common(self.vocab_size, self.d_model, self.dropout, self.norm_epsilon)
        _check_width(self.positions, self.d_model)
        for name in ("num_layers", "length"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        check_positions(self.positions, self.attention)
        check_layers(self.attention, self.num_layers)
        _check_placement(self.moe, self.stacks())
        if self.moe is not None and self.moe.in_attention:
            check_projecting(self.attention)

    def dense_twin(self) -> "DecoderOnlyConfig":
        """The same model with a dense network in place of every sparse layer."""
        return replace(self, moe=None)

    def stacks(self) -> tuple[counts.Stack, ...]:
        """The one stack, as the counts see it."""
        moe = _moe_of_stack(self.moe, decoder=True)
        common = (self.d_model, self.attention, self.feed_forward, moe, self.positions)
        return (
            counts.Stack("decoder", self.num_layers, *common, biased_norms=self.norm in BIASED),
        )

    def param_count(self) -> counts.ParamCount:
        """Total and active parameters by component."""
        return counts.decoder_only_params(self)

    def num_params(self) -> int:
        return self.param_count().total

    def num_active_params(self) -> int:
        """Parameters that a token passes, embeddings and head included once each."""
        return self.param_count().active

    def flops(self, batch: int, length: int) -> int:
        """Arithmetic of one forward pass, a multiply-add counted as two, nothing dropped."""
        return flops.decoder_only_flops(self, batch, length).total


ModelConfig = EncoderDecoderConfig | DecoderOnlyConfig


def _moe_of_stack(moe: MoEConfig | None, decoder: bool) -> MoEConfig | None:
    return None if moe is None else moe.of_stack(decoder)


def _check_common(vocab_size: int, d_model: int, dropout: float, norm_epsilon: float) -> None:
    require(norm_epsilon > 0, "model.norm_epsilon", norm_epsilon, "above 0")
    require(vocab_size >= 2, "model.vocab_size", vocab_size, "at least 2")
    require(d_model >= 1, "model.d_model", d_model, "at least 1")
    require(0 <= dropout < 1, "model.dropout", dropout, "in [0, 1)")


def _check_width(positions: Positions, d_model: int) -> None:
    require(
        positions.kind != Sinusoidal.kind or d_model >= 4,
        "model.d_model",
        d_model,
        "at least 4 with sinusoidal positions, which need two frequencies",
    )


def _check_placement(moe: MoEConfig | None, stacks: tuple[counts.Stack, ...]) -> None:
    """A sparse model has a sparse layer: nothing is silently off."""
    if moe is None:
        return
    if any(stack.sparse_layers for stack in stacks):
        require(
            moe.decoder_router is None or bool(stacks[-1].sparse_layers),
            "model.moe.decoder_router",
            moe.decoder_router,
            "none where no layer of the decoder is sparse",
            "lower model.moe.placement, or leave it out",
        )
        for stack in stacks:
            require(
                not moe.pyramid or len(moe.pyramid) == len(stack.sparse_layers),
                "model.moe.pyramid",
                list(moe.pyramid),
                f"a list of {len(stack.sparse_layers)}, one a sparse layer of the {stack.name}",
            )
        return
    layers = max(stack.num_layers for stack in stacks)
    raise ConfigError(
        "model.moe.placement",
        f"step {moe.placement.step}, first {moe.placement.first}",
        f"such that one of the {layers} layers is sparse",
        "lower them, or set model.moe to none",
    )
