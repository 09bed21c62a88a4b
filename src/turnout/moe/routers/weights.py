"""Combine weights, and which choices are taken up, in token choice. Axes: T tokens, K choices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from turnout.config.routers import CombineWeights
from turnout.moe.noise import Stream, TokenNoise

WeightForm = CombineWeights | Literal["renormalised_over_taken", "one"]


def combine_weights(
    form: WeightForm,
    probability: Float[Tensor, "T K"],
    logits: Float[Tensor, "T K"],
    taken: Bool[Tensor, "T K"],
) -> Float[Tensor, "T K"]:
    """Weights of the chosen experts from their probabilities and logits, before any drop.

    ``raw`` p_i; ``renormalised`` p_i / sum of the chosen p; ``softmax_of_selected`` the softmax
    of the chosen logits alone (Mixtral); ``renormalised_over_taken`` p_i / sum of the p that are
    taken up; ``one`` 1, without gradient to the router.
    """
    if form == "one":
        return torch.ones_like(probability)
    if form == "raw":
        return probability
    if form == "renormalised":
        return probability / probability.sum(1, keepdim=True)
    if form == "renormalised_over_taken":
        total = torch.where(taken, probability, 0.0).sum(1, keepdim=True)
        return probability / torch.where(total > 0, total, 1.0)
    return torch.softmax(logits, dim=1)


class Acceptance(ABC):
    """Decides which of a token's choices it takes up; the first is always taken."""

    @abstractmethod
    def accept(
        self, probability: Float[Tensor, "T K"], noise: TokenNoise | None
    ) -> Bool[Tensor, "T K"]:
        """True where the choice is taken up; ``noise`` is None in evaluation.

        Args:
            probability: of the chosen experts, among all.
        """


@final
class AcceptAll(Acceptance):
    """Every choice is taken up."""

    def accept(
        self, probability: Float[Tensor, "T K"], noise: TokenNoise | None
    ) -> Bool[Tensor, "T K"]:
        return torch.ones_like(probability, dtype=torch.bool)


@final
@dataclass(frozen=True)
class UpToSum(Acceptance):
    """Choices until their probabilities add up to ``p`` (Huang et al., 2403.07652).

    A choice is taken while the sum of those before it is below ``p``.
    """

    p: float

    def accept(
        self, probability: Float[Tensor, "T K"], noise: TokenNoise | None
    ) -> Bool[Tensor, "T K"]:
        before = F.pad(probability.cumsum(1)[:, :-1], (1, 0))
        return before < self.p


@final
@dataclass(frozen=True)
class SecondExpertPolicy(Acceptance):
    """The second expert at random, above a threshold, always or never.

    ``random``: with probability min(1, g2 / threshold), g2 the second expert's probability over
    the pair's; GShard's algorithm 1 is threshold 0.5, Mesh-TF and ST-MoE (appendix G) 0.2.
    Evaluation follows ``evaluation``.
    """

    training: str
    evaluation: str
    threshold: float

    def accept(
        self, probability: Float[Tensor, "T K"], noise: TokenNoise | None
    ) -> Bool[Tensor, "T K"]:
        second = probability[:, 1:] / probability.sum(1, keepdim=True)
        first = torch.ones_like(probability[:, :1], dtype=torch.bool)
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
