"""Top-k token choice with the three published combine weights."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import check_words, positive, require
from turnout.config.routers.base import RouterSpec, at_least, router_flops
from turnout.config.routers.expert_groups import check_expert_groups, check_reach
from turnout.config.routers.exploration import Argmax, Exploration

CombineWeights = Literal["raw", "renormalised", "softmax_of_selected"]


@dataclass(frozen=True)
class TopKRouter(RouterSpec):
    """``k`` experts a token; ``weights`` names the combine weight.

    ``raw``: the softmax probabilities (V-MoE, Flaxformer, OLMoE, DeepSeekMoE, DeepSeek-V2).
    ``renormalised``: divided by their sum over the chosen, before drops (GShard, Mesh-TF, Qwen3).
    ``softmax_of_selected``: softmax over the chosen logits alone (Mixtral); the same numbers as
    ``renormalised``, by another route through float32.

    ``scale`` multiplies them. The experts form ``expert_groups`` equal groups in order, of which a
    token may use the ``groups_kept`` whose best experts are best (DeepSeek-V2: 3 of 8, scale 16).
    ``bias``: the logits are ``W x + b``, with b learned like W (gpt-oss), unlike the b of
    ``sigmoid_top_k``, which follows the loads and has no part in the weights.
    """

    kind: ClassVar[str] = "top_k"
    k: int = 2
    weights: CombineWeights = "renormalised"
    exploration: Exploration = field(default_factory=Argmax)
    expert_groups: int = 1
    groups_kept: int = 1
    scale: float = 1.0
    bias: bool = False

    def __post_init__(self) -> None:
        check_words(self, "router")
        require(self.k >= 1, "router.k", self.k, "at least 1")
        # One normalised weight is always 1: the language loss would never reach the router.
        require(
            self.k > 1 or self.weights == "raw",
            "router.weights",
            self.weights,
            "'raw' when router.k is 1",
            "the router 'switch' is that",
        )
        check_expert_groups(self.expert_groups, self.groups_kept)
        positive("router.scale", self.scale)

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)
        check_reach(self.k, self.expert_groups, self.groups_kept, num_experts)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return d_model * num_experts + self.bias * num_experts


@router_flops.register
def _(router: TopKRouter, d_model: int, num_experts: int) -> int:
    return 2 * d_model * num_experts  # a bias is added, as everywhere, uncounted
