"""Top-k token choice with the three published combine weights."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require
from turnout.config.routers.base import RouterSpec, at_least, router_flops
from turnout.config.routers.exploration import Argmax, Exploration

CombineWeights = Literal["raw", "renormalised", "softmax_of_selected"]


@dataclass(frozen=True)
class TopKRouter(RouterSpec):
    """``k`` experts a token; ``weights`` names the combine weight.

    ``raw``: the softmax probabilities (V-MoE, Flaxformer, OLMoE, DeepSeekMoE).
    ``renormalised``: divided by their sum over the chosen, before drops (GShard, Mesh-TF, Qwen3).
    ``softmax_of_selected``: softmax over the chosen logits alone (Mixtral); the same numbers as
    ``renormalised``, by another route through float32. ``bias`` adds a trained number to each
    expert's logit.
    """

    kind: ClassVar[str] = "top_k"
    k: int = 2
    weights: CombineWeights = "renormalised"
    exploration: Exploration = field(default_factory=Argmax)
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

    @property
    def active(self) -> int:
        return self.k

    def candidates(self, num_experts: int) -> int:
        return self.k

    def check(self, num_experts: int) -> None:
        at_least(self.k, num_experts, self.kind)

    def num_params(self, d_model: int, num_experts: int) -> int:
        return (d_model + self.bias) * num_experts


@router_flops.register
def _(router: TopKRouter, d_model: int, num_experts: int) -> int:
    """The product with the matrix; a bias is only added."""
    return 2 * d_model * num_experts
