"""DSelect-k: a continuously differentiable choice of k experts (2106.03760)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import positive, require
from turnout.config.routers.base import RouterSpec, at_least


@dataclass(frozen=True)
class DSelectKRouter(RouterSpec):
    """``k`` selectors, each a product of smooth steps of ``width``, and weights over them.

    ``active`` is k, what the router comes to once its codes are decided; before, a token may take
    all experts.
    """

    kind: ClassVar[str] = "dselect_k"
    starts_dense: ClassVar[bool] = True
    k: int = 2
    width: float = 1.0

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")
        positive("router.width", self.width)

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return num_experts

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)
        require(
            num_experts >= 2 and num_experts.bit_count() == 1,
            "moe.num_experts",
            num_experts,
            f"a power of two from 2 on, for the binary codes of the router ({self.kind})",
        )

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * self.k * (code_length(num_experts) + 1)


def code_length(num_experts: int) -> int:
    """Bits of an expert's number."""
    return num_experts.bit_length() - 1
