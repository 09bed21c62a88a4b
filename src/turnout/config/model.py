"""The two model families; a published model is a preset over them, never a class of its own."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from turnout.config import counts
from turnout.config.errors import require
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head or grouped-query attention, no biases.

    ``scaled`` divides the logits by sqrt(head_dim); T5 folds that into the query's
    initialisation instead. ``qk_norm``: RMSNorm on queries and keys, ``head`` over each head
    (Qwen3), ``full`` over the whole projection (OLMoE).
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    scaled: bool = True
    qk_norm: Literal["none", "head", "full"] = "none"

    def __post_init__(self) -> None:
        require(self.num_heads >= 1, "attention.num_heads", self.num_heads, "at least 1")
        require(self.head_dim >= 1, "attention.head_dim", self.head_dim, "at least 1")
        require(
            self.num_kv_heads is None
            or (self.num_kv_heads >= 1 and self.num_heads % self.num_kv_heads == 0),
            "attention.num_kv_heads",
            self.num_kv_heads,
            f"a divisor of attention.num_heads ({self.num_heads})",
        )

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def q_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class RelativeBias:
    """T5's learned bias by bucketed distance; one table a stack, or one a layer (GLaM)."""

    kind: ClassVar[str] = "relative_bias"
    num_buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of queries and keys with base ``theta``."""

    kind: ClassVar[str] = "rotary"
    theta: float = 10_000.0


Positions = RelativeBias | Rotary


@dataclass(frozen=True)
class FanInInit:
    """Truncated normal of true std sqrt(scale / fan_in); embeddings std 1 (T5, Switch)."""

    kind: ClassVar[str] = "fan_in"
    scale: float = 1.0


@dataclass(frozen=True)
class NormalInit:
    """Normal of one std for every matrix and embedding, cut at 3 std (OLMoE .02)."""

    kind: ClassVar[str] = "normal"
    std: float = 0.02


Initialisation = FanInInit | NormalInit


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """T5 1.0, T5 1.1, mT5, Switch, ST-MoE.

    ``encoder_length`` and ``decoder_length`` are the configured tokens of a row: expert capacity
    follows from them. ``tied`` shares the embedding with the head and scales the logits by
    d_model^-0.5 (T5 1.0).
    """

    kind: ClassVar[str] = "encoder_decoder"
    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None = None
    positions: RelativeBias = RelativeBias()
    initialisation: Initialisation = FanInInit()
    encoder_length: int = 512
    decoder_length: int = 114
    dropout: float = 0.0
    tied: bool = True
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_common(self.vocab_size, self.d_model, self.dropout)
        for name in ("encoder_layers", "decoder_layers", "encoder_length", "decoder_length"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")

    def dense_twin(self) -> "EncoderDecoderConfig":
        """The same model with a dense network in place of every sparse layer."""
        return replace(self, moe=None)

    def num_params(self) -> int:
        return counts.encoder_decoder_params(self).total

    def num_active_params(self) -> int:
        """Parameters that a token passes, embeddings and head included once each."""
        return counts.encoder_decoder_params(self).active

    def flops(self, batch: int, encoder_length: int, decoder_length: int) -> int:
        """Arithmetic of one forward pass, a multiply-add counted as two, nothing dropped."""
        return counts.encoder_decoder_flops(self, batch, encoder_length, decoder_length)


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """GLaM, Mixtral, OLMoE, Qwen3-MoE, DeepSeekMoE, and the small models of the demo.

    ``length`` is the configured tokens of a row: expert capacity follows from it.
    """

    kind: ClassVar[str] = "decoder_only"
    vocab_size: int
    d_model: int
    num_layers: int
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    moe: MoEConfig | None = None
    positions: RelativeBias | Rotary = Rotary()
    initialisation: Initialisation = NormalInit()
    length: int = 1024
    dropout: float = 0.0
    tied: bool = False
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_common(self.vocab_size, self.d_model, self.dropout)
        for name in ("num_layers", "length"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        rotary = self.positions.kind == Rotary.kind
        require(
            not rotary or self.attention.head_dim % 2 == 0,
            "attention.head_dim",
            self.attention.head_dim,
            "even with rotary positions",
        )

    def dense_twin(self) -> "DecoderOnlyConfig":
        """The same model with a dense network in place of every sparse layer."""
        return replace(self, moe=None)

    def num_params(self) -> int:
        return counts.decoder_only_params(self).total

    def num_active_params(self) -> int:
        """Parameters that a token passes, embeddings and head included once each."""
        return counts.decoder_only_params(self).active

    def flops(self, batch: int, length: int) -> int:
        """Arithmetic of one forward pass, a multiply-add counted as two, nothing dropped."""
        return counts.decoder_only_flops(self, batch, length)


ModelConfig = EncoderDecoderConfig | DecoderOnlyConfig


def _check_common(vocab_size: int, d_model: int, dropout: float) -> None:
    require(vocab_size >= 2, "model.vocab_size", vocab_size, "at least 2")
    require(d_model >= 1, "model.d_model", d_model, "at least 1")
    require(0 <= dropout < 1, "model.dropout", dropout, "in [0, 1)")
