"""How rotary frequencies change so that a model reads rows longer than it was trained on."""

import math
from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require

_PATH = "positions.scaling"


@dataclass(frozen=True)
class LinearScaling:
    """Every position divided by ``factor`` (position interpolation, 2306.15595)."""

    kind: ClassVar[str] = "linear"
    logit_scale: ClassVar[float] = 1.0
    latent_only: ClassVar[bool] = False
    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """Slow pairs interpolated, fast ones kept, a ramp between (YaRN, 2309.00071, section 3.2).

    A pair that turns ``beta_fast`` times or more in ``original_length`` tokens keeps its
    frequency, one that turns ``beta_slow`` times or less is divided by ``factor``; ``truncate``
    rounds the ends of the ramp outwards to whole pairs. Cosines and sines are multiplied by
    ``attention_factor``; without it by YaRN's 0.1 ln(factor) + 1, or, given ``mscale``, by the
    quotient of 0.1 mscale ln(factor) + 1 and the same of ``mscale_all_dim``. By the latter,
    squared, latent attention scales its logits (DeepSeek-V2).
    """

    kind: ClassVar[str] = "yarn"
    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_length(self.original_length)
        positive(f"{_PATH}.beta_slow", self.beta_slow)
        require(
            self.beta_slow < self.beta_fast < math.inf,
            f"{_PATH}.beta_fast",
            self.beta_fast,
            f"above positions.scaling.beta_slow ({self.beta_slow})",
        )
        for name in ("mscale", "mscale_all_dim", "attention_factor"):
            if getattr(self, name) is not None:
                positive(f"{_PATH}.{name}", getattr(self, name))
        require(
            self.mscale is None or (self.mscale_all_dim is not None and not self.attention_factor),
            f"{_PATH}.mscale",
            self.mscale,
            "left out without mscale_all_dim, and with attention_factor",
            "it is the quotient of the two that counts, unless attention_factor says it",
        )

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        return self._growth(1.0)

    @property
    def logit_scale(self) -> float:
        """Factor on the logits of latent attention."""
        return 1.0 if self.mscale_all_dim is None else self._growth(self.mscale_all_dim) ** 2

    @property
    def latent_only(self) -> bool:
        """Whether a field of it has a meaning for latent attention alone."""
        return self.mscale_all_dim is not None and self.mscale is None

    def ramp(self, theta: float, width: int) -> tuple[float, float]:
        """Pairs, as real numbers, at which the ramp starts and ends; ``width`` is rotated."""
        low, high = (
            self._turning(turns, theta, width) for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = float(math.floor(low)), float(math.ceil(high))
        low, high = max(low, 0.0), min(high, width - 1.0)
        return low, high + 0.001 if low == high else high

    def _turning(self, turns: float, theta: float, width: int) -> float:
        """The pair p that turns ``turns`` times: original_length * theta^(-2 p / width) radians."""
        radians = turns * 2 * math.pi
        return width * math.log(self.original_length / radians) / (2 * math.log(theta))

    def _growth(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class Llama3Scaling:
    """By wavelength against ``original_length`` tokens (Llama 3.1, 2407.21783).

    Pairs that turn ``high_frequency`` times or more in it keep their frequency, those that turn
    ``low_frequency`` times or less are divided by ``factor``, and between both is a ramp in turns.
    """

    kind: ClassVar[str] = "llama3"
    logit_scale: ClassVar[float] = 1.0
    latent_only: ClassVar[bool] = False
    factor: float
    original_length: int
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_length(self.original_length)
        positive(f"{_PATH}.low_frequency", self.low_frequency)
        require(
            self.low_frequency < self.high_frequency < math.inf,
            f"{_PATH}.high_frequency",
            self.high_frequency,
            f"above positions.scaling.low_frequency ({self.low_frequency})",
        )


RotaryScaling = LinearScaling | YarnScaling | Llama3Scaling


def _check_factor(factor: float) -> None:
    require(1 <= factor < math.inf, f"{_PATH}.factor", factor, "at least 1")


def _check_length(length: int) -> None:
    require(length >= 1, f"{_PATH}.original_length", length, "at least 1")
