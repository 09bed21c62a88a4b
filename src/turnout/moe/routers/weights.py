"""Combine weights and second-expert policies of token choice. Axes: T tokens, K choices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from turnout.config.routers import CombineWeights
from turnout.moe.noise import Stream, TokenNoise


def combine_weights(
    form: CombineWeights | Literal["one"],
    probability: Float[Tensor, "T K"],
    logits: Float[Tensor, "T K"],
) -> Float[Tensor, "T K"]:
    """Weights of the chosen experts from their probabilities and logits, before any drop.

    ``raw`` p_i; ``renormalised`` p_i / sum of the chosen p; ``softmax_of_selected`` the softmax
    of the chosen logits alone (Mixtral); ``one`` 1, without gradient to the router.
    """
    if form == "one":
        return torch.ones_like(probability)
    if form == "raw":
        return probability
    if form == "renormalised":
        return probability / probability.sum(1, keepdim=True)
    return torch.softmax(logits, dim=1)


class Acceptance(ABC):
    """Decides which of a token's choices it takes up; the first is always taken."""

    @abstractmethod
    def accept(self, weight: Float[Tensor, "T K"], noise: TokenNoise | None) -> Bool[Tensor, "T K"]:
        """True where the choice is taken up; ``noise`` is None in evaluation."""


@final
class AcceptAll(Acceptance):
    """Every choice is taken up."""

    def accept(self, weight: Float[Tensor, "T K"], noise: TokenNoise | None) -> Bool[Tensor, "T K"]:
        return torch.ones_like(weight, dtype=torch.bool)


@final
@dataclass(frozen=True)
class SecondExpertPolicy(Acceptance):
    """The second expert at random, above a threshold, always or never.

    ``random``: with probability min(1, g2 / threshold); GShard's algorithm 1 is threshold 0.5,
    Mesh-TF and ST-MoE (appendix G) 0.2. Evaluation follows ``evaluation``.
    """

    training: str
    evaluation: str
    threshold: float

    def accept(self, weight: Float[Tensor, "T K"], noise: TokenNoise | None) -> Bool[Tensor, "T K"]:
        first, second = torch.ones_like(weight[:, :1], dtype=torch.bool), weight[:, 1:]
        policy = self.evaluation if noise is None else self.training
        if policy == "all":
            taken = torch.ones_like(second, dtype=torch.bool)
        elif policy == "none":
            taken = torch.zeros_like(second, dtype=torch.bool)
        elif policy == "threshold" or noise is None:
            taken = second > self.threshold
        else:
            draw = noise.uniform(Stream.SECOND_EXPERT, second.shape[1])
            taken = second / self.threshold > draw
        return torch.cat([first, taken], dim=1)
