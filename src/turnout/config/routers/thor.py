"""THOR: experts drawn at random (Zuo et al. 2021, 2110.04260)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import not_negative, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class ThorRouter(RouterSpec):
    """``k`` different experts a token, drawn evenly at random; weight 1 / k, nothing to learn.

    ``consistency`` weighs how much two passes with other draws disagree, in training. The paper
    adds 5 times that to the sum of both cross-entropies; beside their mean, as here, that is 2.5.
    0 trains on one pass.
    """

    kind: ClassVar[str] = "thor"
    k: int = 1
    consistency: float = 2.5

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")
        not_negative("router.consistency", self.consistency)

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return 0
