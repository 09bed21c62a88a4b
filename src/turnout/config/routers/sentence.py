"""Sentence-level routing: one decision for all of a group (Kudugunta et al. 2021, 2110.03742)."""

from dataclasses import dataclass
from typing import ClassVar

from turnout.config.errors import require
from turnout.config.routers.base import RouterSpec, at_least, router_flops


@dataclass(frozen=True)
class SentenceRouter(RouterSpec):
    """Top-k of the softmax over logits of the routing group's mean hidden state, raw weights.

    It reads ahead: for encoders, or with ``moe.allow_future_routing``.
    """

    kind: ClassVar[str] = "sentence"
    k: int = 2

    def __post_init__(self) -> None:
        require(self.k >= 1, "router.k", self.k, "at least 1")

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return num_experts * d_model


@router_flops.register
def _(router: SentenceRouter, d_model: int, num_experts: int) -> int:
    return 0  # one product for a whole group, and additions
