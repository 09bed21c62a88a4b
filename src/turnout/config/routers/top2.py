"""Top-2 with an optional second expert (GShard, 2006.16668, algorithm 1; Mesh-TF; ST-MoE)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.routers.base import RouterSpec, at_least
from turnout.config.routers.exploration import Argmax, Exploration

GSHARD_THRESHOLD = 0.5  # GShard keeps the second expert when 2 * g2 > U(0, 1)
MESH_THRESHOLD = 0.2  # Mesh-TF and ST-MoE keep it with probability min(1, g2 / 0.2)


@dataclass(frozen=True)
class Top2Router(RouterSpec):
    """Two experts, weights renormalised over the pair before the second may be declined.

    ``second`` is the policy in training: ``random`` keeps the second expert with probability
    ``min(1, g2 / threshold)``, ``threshold`` keeps it when ``g2 > threshold``, ``all`` always,
    ``none`` never. Evaluation has no noise, so ``second_in_evaluation`` offers the other three.
    """

    kind: ClassVar[str] = "top2"
    second: Literal["random", "threshold", "all", "none"] = "random"
    second_in_evaluation: Literal["threshold", "all", "none"] = "all"
    threshold: float = MESH_THRESHOLD
    exploration: Exploration = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(self.threshold > 0, "router.threshold", self.threshold, "above 0")

    @property
    def active(self) -> int:
        return 2

    def candidates(self, num_experts: int) -> int:
        return 2

    def check(self, num_experts: int) -> None:
        at_least(2, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
