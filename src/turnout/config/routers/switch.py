"""Switch routing: one expert a token (Switch Transformers, 2101.03961, equations 1 and 2)."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnout.config.routers.base import RouterSpec, at_least, router_flops
from turnout.config.routers.exploration import Argmax, Exploration


@dataclass(frozen=True)
class SwitchRouter(RouterSpec):
    """Top-1; the combine weight is the raw softmax probability of the chosen expert.

    ``bias`` adds a trained number to each expert's logit.
    """

    kind: ClassVar[str] = "switch"
    exploration: Exploration = field(default_factory=Argmax)
    bias: bool = False

    @property
    def active(self) -> int:
        return 1

    def candidates(self, num_experts: int) -> int:
        return 1

    def check(self, num_experts: int) -> None:
        at_least(1, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return (d_model + self.bias) * num_experts


@router_flops.register
def _(router: SwitchRouter, d_model: int, num_experts: int) -> int:
    """The product with the matrix; a bias is only added."""
    return 2 * d_model * num_experts
