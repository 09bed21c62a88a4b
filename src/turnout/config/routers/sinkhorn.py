"""Sinkhorn routing (S-BASE of Clark et al. 2022, 2202.01169)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class SinkhornRouter(RouterSpec):
    """Top-1 in a table of probabilities that is balanced over the group, in training.

    A lower ``temperature`` brings the loads nearer to equal and takes more sweeps. Balancing ends
    when every expert's share is within ``tolerance`` of equal, or after ``sweeps``.
    """

    kind: ClassVar[str] = "sinkhorn"
    temperature: float = 1.0
    sweeps: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        positive("router.temperature", self.temperature)
        require(self.sweeps >= 1, "router.sweeps", self.sweeps, "at least 1")
        positive("router.tolerance", self.tolerance)

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
