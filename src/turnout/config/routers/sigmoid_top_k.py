"""Sigmoid top-k with a bias that balances without a loss (DeepSeek-V3, 2412.19437)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, not_negative, positive, require
from turnout.config.routers.base import RouterSpec, at_least
from turnout.config.routers.expert_groups import check_expert_groups, check_reach


@dataclass(frozen=True)
class SigmoidTopKRouter(RouterSpec):
    """The ``k`` experts of largest ``s + b``, s a sigmoid, b a bias for the choice alone.

    ``bias_rate`` is what b moves by after a step; 0 leaves the bias out. The experts form
    ``expert_groups`` equal groups in order, of which a token may use its best ``groups_kept``.
    ``weights`` is ``renormalised`` (s over the sum of the chosen s, as published) or ``raw`` (s
    itself); ``scale`` multiplies them.
    """

    kind: ClassVar[str] = "sigmoid_top_k"
    k: int = 2
    bias_rate: float = 1e-3
    expert_groups: int = 1
    groups_kept: int = 1
    scale: float = 1.0
    weights: Literal["renormalised", "raw"] = "renormalised"

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(self.k >= 1, "router.k", self.k, "at least 1")
        # One normalised weight is always 1: the language loss would never reach the router.
        require(
            self.k > 1 or self.weights == "raw",
            "router.weights",
            self.weights,
            "'raw' when router.k is 1",
        )
        not_negative("router.bias_rate", self.bias_rate)
        positive("router.scale", self.scale)
        check_expert_groups(self.expert_groups, self.groups_kept)

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)
        check_reach(self.k, self.expert_groups, self.groups_kept, num_experts)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
