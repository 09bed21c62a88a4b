"""Learning-rate schedules: what multiplies the learning rate, from 0 to 1 in most."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require


@dataclass(frozen=True)
class InverseSqrt:
    """``1 / sqrt(max(step, warmup))``: T5's; normalised to 1 at the peak when ``peak_one``."""

    kind: ClassVar[str] = "inverse_sqrt"
    warmup: int = 10_000
    linear_warmup: bool = False
    peak_one: bool = False

    def __post_init__(self) -> None:
        require(self.warmup >= 1, "schedule.warmup", self.warmup, "at least 1")


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to 1, then half a cosine down to ``floor``."""

    kind: ClassVar[str] = "cosine"
    warmup: int = 100
    floor: float = 0.1

    def __post_init__(self) -> None:
        require(self.warmup >= 0, "schedule.warmup", self.warmup, "at least 0")
        require(0 <= self.floor <= 1, "schedule.floor", self.floor, "in [0, 1]")


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up to 1, flat, and a decay to ``floor`` over the last ``decay`` of the run.

    The flat part may be prolonged at will (MiniCPM, 2404.06395). ``shape`` of the decay: linear,
    or one minus a square root (2405.18392), which falls faster at first.
    """

    kind: ClassVar[str] = "wsd"
    warmup: int = 100
    decay: float = 0.2
    floor: float = 0.0
    shape: Literal["linear", "sqrt"] = "linear"

    def __post_init__(self) -> None:
        check_words(self, "schedule")
        require(self.warmup >= 0, "schedule.warmup", self.warmup, "at least 0")
        require(0 <= self.decay <= 1, "schedule.decay", self.decay, "in [0, 1], a share of the run")
        require(0 <= self.floor <= 1, "schedule.floor", self.floor, "in [0, 1]")


@dataclass(frozen=True)
class Constant:
    """Linear warm-up to 1, and 1 for ever after."""

    kind: ClassVar[str] = "constant"
    warmup: int = 0

    def __post_init__(self) -> None:
        require(self.warmup >= 0, "schedule.warmup", self.warmup, "at least 0")


ScheduleConfig = InverseSqrt | Cosine | WarmupStableDecay | Constant
