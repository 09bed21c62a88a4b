"""No-token-left-behind (Switch Transformers, 2101.03961, appendix B)."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least
from turnout.config.routers.exploration import Argmax, Exploration


@dataclass(frozen=True)
class NoTokenLeftBehindRouter(RouterSpec):
    """Top-1 that falls back on the next best expert with room, through ``stages`` candidates.

    Mesh-TF walks the stages one after the other (priority ``choice``) with four of them.
    """

    kind: ClassVar[str] = "no_token_left_behind"
    stages: int = 4
    exploration: Exploration = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        require(self.stages >= 1, "router.stages", self.stages, "at least 1")

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return self.stages

    def check(self, num_experts: int) -> None:
        at_least(self.stages, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts
