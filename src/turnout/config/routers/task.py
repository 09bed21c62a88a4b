"""Task-level routing: logits of the label alone (Kudugunta et al. 2021, 2110.03742)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least, labels_read, router_flops


@dataclass(frozen=True)
class TaskRouter(RouterSpec):
    """A learned row of logits for each of ``tasks`` labels; top-k of its softmax, raw weights.

    The labels are the sources of ``data.mixture``, in order.
    """

    kind: ClassVar[str] = "task"
    tasks: int
    k: int = 2

    def __post_init__(self) -> None:
        require(self.tasks >= 1, "router.tasks", self.tasks, "at least 1")
        require(self.k >= 1, "router.k", self.k, "at least 1")

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return self.tasks * num_experts


@router_flops.register
def _(router: TaskRouter, d_model: int, num_experts: int) -> int:
    return 0  # logits are looked up


@labels_read.register
def _(router: TaskRouter) -> tuple[str, int] | None:
    return "tasks", router.tasks
