"""How weights start."""

import math
from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require


@dataclass(frozen=True)
class FanInInit:
    """Truncated normal of true std sqrt(scale / fan_in); embeddings std 1 (T5, Switch)."""

    kind: ClassVar[str] = "fan_in"
    scale: float = 1.0

    def __post_init__(self) -> None:
        ok = self.scale > 0 and math.isfinite(self.scale)
        require(ok, "initialisation.scale", self.scale, "above 0")


@dataclass(frozen=True)
class NormalInit:
    """Normal of one std for every matrix and embedding, cut at 3 std (OLMoE .02)."""

    kind: ClassVar[str] = "normal"
    std: float = 0.02

    def __post_init__(self) -> None:
        ok = self.std > 0 and math.isfinite(self.std)
        require(ok, "initialisation.std", self.std, "above 0")


Initialisation = FanInInit | NormalInit
