"""Routing learned by reward (Clark et al. 2022, 2202.01169: RL-R; Bengio et al. 2015)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class ReinforceRouter(RouterSpec):
    """One expert a token, drawn from the softmax in training; the weight is 1.

    So only the policy gradient reaches the router: ``policy`` is its coefficient.
    """

    kind: ClassVar[str] = "reinforce"
    policy: float = 0.1

    def __post_init__(self) -> None:
        require(
            0 < self.policy < math.inf,
            "router.policy",
            self.policy,
            "above 0",
            "nothing else trains this router",
        )

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
