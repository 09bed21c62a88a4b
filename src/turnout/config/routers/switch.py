"""Switch routing: one expert a token (Switch Transformers, 2101.03961, equations 1 and 2)."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnout.config.routers.exploration import Argmax, Exploration


@dataclass(frozen=True)
class SwitchRouter:
    """Top-1; the combine weight is the raw softmax probability of the chosen expert."""

    kind: ClassVar[str] = "switch"
    exploration: Exploration = field(default_factory=Argmax)

    @property
    def candidates(self) -> int:
        """Choices a token names."""
        return 1

    @property
    def active(self) -> int:
        """Experts that compute a token when nothing is dropped."""
        return 1

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
