"""How a router explores in training (Switch Transformers, 2101.03961, appendix C, Table 11)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require


@dataclass(frozen=True)
class Argmax:
    """The best scores win; no noise."""

    kind: ClassVar[str] = "argmax"


@dataclass(frozen=True)
class SampledSoftmax:
    """The choice is drawn from the softmax at ``temperature`` (the worst in Table 11)."""

    kind: ClassVar[str] = "sampled_softmax"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature > 0, "router.exploration.temperature", self.temperature, "above 0")


@dataclass(frozen=True)
class InputDropout:
    """Elements of the router's copy of its input are dropped."""

    kind: ClassVar[str] = "input_dropout"
    rate: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "router.exploration.rate", self.rate, "in [0, 1)")


@dataclass(frozen=True)
class InputJitter:
    """The router's copy of its input is multiplied by U[1 - epsilon, 1 + epsilon]."""

    kind: ClassVar[str] = "input_jitter"
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < 1, "router.exploration.epsilon", self.epsilon, "in [0, 1)")


Exploration = Argmax | SampledSoftmax | InputDropout | InputJitter
