"""Top-k among true and null experts, at a budget (AdaMoE, 2406.13233)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class NullExpertsRouter(RouterSpec):
    """Top-``k`` among the experts and ``nulls`` that compute nothing.

    ``budget`` is how many true experts a token takes on average: a bias on the nulls' scores,
    moved by ``rate`` after each step, keeps it.
    """

    kind: ClassVar[str] = "null_experts"
    k: int = 2
    nulls: int = 4
    budget: float = 1.0
    rate: float = 1e-2

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")
        require(self.nulls >= 1, "router.nulls", self.nulls, "at least 1")
        least = max(self.k - self.nulls, 0)
        require(
            self.budget > 0 and least <= self.budget <= self.k,
            "router.budget",
            self.budget,
            f"above 0 and from {least} to {self.k}, the true experts that a token can take",
        )
        positive("router.rate", self.rate)

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * (num_experts + self.nulls)
