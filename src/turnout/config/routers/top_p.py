"""Top-p: as many experts as it takes (Huang et al., 2403.07652)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.routers.base import RouterSpec, at_least
from turnout.config.routers.exploration import Argmax, Exploration


@dataclass(frozen=True)
class TopPRouter(RouterSpec):
    """Experts in falling probability until their sum reaches ``p``, ``most`` of them at most.

    ``weights`` is ``raw`` (the probabilities, as published) or ``renormalised`` over the experts
    that are taken; a token that takes one then has weight 1 and no gradient.
    """

    kind: ClassVar[str] = "top_p"
    p: float = 0.5
    most: int = 4
    weights: Literal["raw", "renormalised"] = "raw"
    exploration: Exploration = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(0 < self.p <= 1, "router.p", self.p, "above 0 and at most 1")
        require(self.most >= 1, "router.most", self.most, "at least 1")
        # One normalised weight is always 1: the language loss would never reach the router.
        require(
            self.most > 1 or self.weights == "raw",
            "router.weights",
            self.weights,
            "'raw' when router.most is 1",
        )

    @property
    def active(self) -> int:
        return self.most

    def candidates(self, num_experts: int) -> int:
        return self.most

    def check(self, num_experts: int) -> None:
        at_least(self.most, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
