"""Expert prototyping: k top-1 routings side by side (M6-T, 2105.15082)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec


@dataclass(frozen=True)
class PrototypesRouter(RouterSpec):
    """The experts in ``k`` equal prototypes; the best expert of each serves the token."""

    kind: ClassVar[str] = "prototypes"
    k: int = 2

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        # A softmax over one expert is always 1: the language loss would never reach the router.
        require(
            num_experts % self.k == 0 and num_experts >= 2 * self.k,
            "router.k",
            self.k,
            f"a divisor of the {num_experts} experts that leaves at least 2 in each prototype",
        )

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
