"""Optimisers, and how fast each role of parameters learns."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import not_negative, positive, require


@dataclass(frozen=True)
class AdamWConfig:
    """Decoupled weight decay, on matrices only.

    ``router_rate`` and ``expert_rate`` are the learning rates of routers and experts as multiples
    of ``learning_rate``.
    """

    kind: ClassVar[str] = "adamw"
    learning_rate: float = 1e-3
    router_rate: float = 1.0
    expert_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "router_rate", "expert_rate"):
            positive(f"optimizer.{name}", getattr(self, name))
        positive("optimizer.epsilon", self.epsilon)
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "in [0, 1)")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "in [0, 1)")
        not_negative("optimizer.weight_decay", self.weight_decay)


@dataclass(frozen=True)
class AdafactorConfig:
    """T5's Adafactor; ``learning_rate`` is relative to each matrix's root mean square.

    ``router_rate`` and ``expert_rate`` are multiples of it, for routers and experts.
    """

    kind: ClassVar[str] = "adafactor"
    learning_rate: float = 1.0
    router_rate: float = 1.0
    expert_rate: float = 1.0
    decay_exponent: float = 0.8
    clip_threshold: float = 1.0
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    min_factored: int = 128

    def __post_init__(self) -> None:
        for name in ("learning_rate", "router_rate", "expert_rate"):
            positive(f"optimizer.{name}", getattr(self, name))
        positive("optimizer.clip_threshold", self.clip_threshold)
        positive("optimizer.epsilon1", self.epsilon1)
        positive("optimizer.epsilon2", self.epsilon2)
        positive("optimizer.decay_exponent", self.decay_exponent)
        require(self.min_factored >= 2, "optimizer.min_factored", self.min_factored, "at least 2")


OptimizerConfig = AdamWConfig | AdafactorConfig
