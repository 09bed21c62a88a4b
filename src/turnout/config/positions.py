"""How attention knows where a token stands."""

import math
from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.rotary_scaling import RotaryScaling


@dataclass(frozen=True)
class RelativeBias:
    """T5's learned bias by bucketed distance; one table a stack, or one a layer (GLaM)."""

    kind: ClassVar[str] = "relative_bias"
    num_buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def __post_init__(self) -> None:
        require(
            self.num_buckets >= 4 and self.num_buckets % 4 == 0,
            "positions.num_buckets",
            self.num_buckets,
            "a multiple of 4, at least 4",
            "an encoder splits the buckets by direction, and each half by exact and logarithmic",
        )
        require(
            self.max_distance > self.num_buckets // 2,
            "positions.max_distance",
            self.max_distance,
            f"above half of positions.num_buckets ({self.num_buckets // 2})",
        )

    def tables(self, num_layers: int) -> int:
        """Tables of [num_buckets, num_heads] in a stack; cross-attention has none."""
        return num_layers if self.per_layer else 1

    def num_params(self, num_layers: int, num_heads: int) -> int:
        return self.tables(num_layers) * self.num_buckets * num_heads


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of queries and keys with base ``theta``.

    The first ``share`` of a head is rotated, the rest left as it is. A pair is (p, p + half of
    what is rotated), or ``interleaved`` (2 p, 2 p + 1), as in DeepSeek-V2. ``scaling`` is for rows
    longer than those of the training.
    """

    kind: ClassVar[str] = "rotary"
    theta: float = 10_000.0
    scaling: RotaryScaling | None = None
    interleaved: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.theta > 1 and math.isfinite(self.theta),
            "positions.theta",
            self.theta,
            "above 1",
        )
        require(0 < self.share <= 1, "positions.share", self.share, "above 0, at most 1")

    @property
    def logit_scale(self) -> float:
        """Factor on the logits of latent attention."""
        return 1.0 if self.scaling is None else self.scaling.logit_scale

    def rotated(self, head_dim: int) -> int:
        """How much of a head of width ``head_dim`` is rotated."""
        return int(head_dim * self.share)

    def num_params(self, num_layers: int, num_heads: int) -> int:
        return 0


@dataclass(frozen=True)
class Sinusoidal:
    """Sines and cosines added to the embeddings (1706.03762, section 3.5), without parameters.

    The form is tensor2tensor's, which fairseq and NLLB took over: with n = d_model // 2, entry i of
    the first n is ``sin(p theta^(-i / (n - 1)))``, of the next n its cosine, and of an odd width
    the last is 0. p counts the tokens of a row, which padding does not, from ``offset``: 2 in
    fairseq, where the place of padding and those before it are never used.
    """

    kind: ClassVar[str] = "sinusoidal"
    offset: int = 0
    theta: float = 10_000.0

    def __post_init__(self) -> None:
        require(self.offset >= 0, "positions.offset", self.offset, "at least 0")
        ok = self.theta > 1 and math.isfinite(self.theta)
        require(ok, "positions.theta", self.theta, "above 1")

    def num_params(self, num_layers: int, num_heads: int) -> int:
        return 0


Positions = RelativeBias | Rotary | Sinusoidal
