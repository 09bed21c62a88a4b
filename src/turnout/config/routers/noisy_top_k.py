"""Noisy top-k gating (Shazeer et al. 2017, 1701.06538, section 2.1)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class NoisyTopKRouter(RouterSpec):
    """Noise of learned scale on the logits in training; softmax over the kept ``k``."""

    kind: ClassVar[str] = "noisy_top_k"
    k: int = 4

    def __post_init__(self) -> None:
        # The softmax over one logit is always 1: the language loss would never reach the router.
        require(self.k >= 2, "router.k", self.k, "at least 2")

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return 2 * d_model * num_experts
