"""BASE layers (Lewis et al. 2021, 2103.16716)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class BaseRouter(RouterSpec):
    """One expert a token; in training the tokens of a group are shared out equally."""

    kind: ClassVar[str] = "base"

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
