"""Expert choice (Zhou et al. 2022, 2202.09368)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class ExpertChoiceRouter(RouterSpec):
    """Every expert takes its best tokens of a routing group, ``k`` experts a token on average.

    With ``cap`` no token gets more than so many experts: the assignment is then solved for with
    an entropy of weight ``strength`` in ``sweeps`` sweeps (the paper's EC-CAP).
    """

    kind: ClassVar[str] = "expert_choice"
    k: int = 2
    cap: int | None = None
    strength: float = 0.1
    sweeps: int = 50

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")
        require(
            self.cap is None or self.cap >= self.k,
            "router.cap",
            self.cap,
            f"at least {self.k}, the experts a token has on average (router.k)",
            "or none, which leaves the number of experts open",
        )
        positive("router.strength", self.strength)
        require(self.sweeps >= 1, "router.sweeps", self.sweeps, "at least 1")

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k if self.cap is None else self.cap, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
