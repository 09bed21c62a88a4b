"""From all experts to few, by a falling temperature (EvoMoE's DTS gate, 2112.14397)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require
from turnout.config.routers.base import RouterSpec


@dataclass(frozen=True)
class DenseToSparseRouter(RouterSpec):
    """Every expert whose probability exceeds ``threshold``, and the best always.

    The temperature of the softmax falls from ``start`` to ``end``, evenly in its logarithm, over
    the first ``anneal`` share of the run; evaluation takes ``end``. ``gumbel`` adds Gumbel noise
    to the logits in training, as published. ``active`` is 1, what the router comes to; it begins
    with all.
    """

    kind: ClassVar[str] = "dense_to_sparse"
    starts_dense: ClassVar[bool] = True
    start: float = 2.0
    end: float = 0.1
    anneal: float = 0.5
    threshold: float = 1e-3
    gumbel: bool = True

    def __post_init__(self) -> None:
        positive("router.end", self.end)
        positive("router.start", self.start)
        require(
            self.start >= self.end,
            "router.start",
            self.start,
            f"at least router.end, {self.end}",
        )
        require(0 < self.anneal <= 1, "router.anneal", self.anneal, "above 0 and at most 1")
        require(0 < self.threshold < 1, "router.threshold", self.threshold, "between 0 and 1")

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return num_experts

    def check(self, num_experts: int) -> None:
        require(
            self.threshold < 1 / num_experts,
            "router.threshold",
            self.threshold,
            f"below 1 / {num_experts}, the probability of each expert when all are equal",
            "or the run does not start dense",
        )

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
