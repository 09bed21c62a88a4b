"""Routing by a label of the row: domains, languages, tasks (DEMix, 2108.05036)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least, labels_read


@dataclass(frozen=True)
class LabelRouter(RouterSpec):
    """Every token of a row goes to the expert of its row's label, 0 .. ``labels`` - 1.

    The labels are the sources of ``data.mixture``, in order.
    """

    kind: ClassVar[str] = "label"
    labels: int

    def __post_init__(self) -> None:
        require(self.labels >= 1, "router.labels", self.labels, "at least 1")

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)
        require(
            self.labels <= num_experts,
            "moe.num_experts",
            num_experts,
            f"at least {self.labels}, the labels of the router ({self.kind})",
            "each label has an expert of its own",
        )

    def num_params(self, d_model: int, num_experts: int) -> int:
        return 0


@labels_read.register
def _(router: LabelRouter) -> tuple[str, int] | None:
    return "labels", router.labels
