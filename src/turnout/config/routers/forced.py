"""Routing with a load that is set beforehand, to measure systems with."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class ForcedRouter(RouterSpec):
    """``k`` experts a token whatever it is; weight 1 / k, nothing to learn.

    ``uniform``: the real tokens of a row take the experts in turn, so that loads are even.
    ``zipf``: drawn with probabilities proportional to ``1 / (i + 1) ** exponent``, without
    replacement.
    """

    kind: ClassVar[str] = "forced"
    load: Literal["uniform", "zipf"] = "uniform"
    exponent: float = 1.0
    k: int = 1

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(self.k >= 1, "router.k", self.k, "at least 1")
        require(0 <= self.exponent <= 100, "router.exponent", self.exponent, "in 0 .. 100")
        require(
            self.load == "zipf" or self.exponent == 1.0,
            "router.exponent",
            self.exponent,
            "left out where router.load is 'uniform'",
            "it is the exponent of router.load = 'zipf'",
        )

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return 0
