"""A router for each task (MMoE: Ma et al. 2018, "Modeling task relationships in multi-task
learning with multi-gate mixture-of-experts")."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least, labels_read, router_flops


@dataclass(frozen=True)
class MultiGateRouter(RouterSpec):
    """One linear router for each of ``tasks`` labels; top-k of its softmax, raw weights.

    With ``k`` as large as the number of experts it is the paper's. The labels are the sources of
    ``data.mixture``, in order.
    """

    kind: ClassVar[str] = "multi_gate"
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
        return self.tasks * num_experts * d_model


@router_flops.register
def _(router: MultiGateRouter, d_model: int, num_experts: int) -> int:
    return 2 * num_experts * d_model  # a token meets its own task's router alone


@labels_read.register
def _(router: MultiGateRouter) -> tuple[str, int] | None:
    return "tasks", router.tasks
