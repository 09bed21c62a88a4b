"""Two levels of noisy top-k (Shazeer et al. 2017, 1701.06538, appendix B)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec


@dataclass(frozen=True)
class HierarchicalRouter(RouterSpec):
    """``k_primary`` of ``groups`` groups of experts, then ``k_secondary`` experts of each.

    Expert ``i * (E / groups) + j`` is expert j of group i. ``noisy`` adds noise of a learned scale
    to both levels' logits in training, as in the paper.
    """

    kind: ClassVar[str] = "hierarchical"
    groups: int = 4
    k_primary: int = 2
    k_secondary: int = 2
    noisy: bool = True

    def __post_init__(self) -> None:
        # The softmax over one logit is always 1: the language loss would never reach that level.
        for name in ("k_primary", "k_secondary"):
            value = getattr(self, name)
            require(value >= 2, f"router.{name}", value, "at least 2")
        require(
            self.groups >= self.k_primary,
            "router.groups",
            self.groups,
            f"at least router.k_primary ({self.k_primary})",
        )

    @property
    def active(self) -> int:
        return self.k_primary * self.k_secondary

    def candidates(self, num_experts: int) -> int:
        return self.k_primary * self.k_secondary

    def check(self, num_experts: int) -> None:
        least = self.groups * self.k_secondary
        require(
            num_experts % self.groups == 0 and num_experts >= least,
            "moe.num_experts",
            num_experts,
            f"a multiple of router.groups ({self.groups}), at least {least}",
            "each group holds as many experts, and a token takes "
            f"{self.k_secondary} of a group (router.k_secondary)",
        )

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * (self.groups + num_experts) * (2 if self.noisy else 1)
