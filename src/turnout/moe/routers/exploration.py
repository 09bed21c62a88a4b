"""Exploration policies: wrappers around a router's input and scores, in training only.

Switch Transformers (2101.03961), appendix C and Table 11. Axes: T tokens, D width, E experts.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import final

from jaxtyping import Float
from torch import Tensor

from turnout.config import routers as config
from turnout.moe.noise import Stream, TokenNoise


class ExplorationPolicy(ABC):
    """What a router does to its input and to the scores that choose, in training."""

    @abstractmethod
    def perturb_input(self, x: Float[Tensor, "T D"], noise: TokenNoise) -> Float[Tensor, "T D"]:
        """The router's copy of its input, perturbed, in float32; the input where nothing is."""

    @abstractmethod
    def selection_scores(
        self, logits: Float[Tensor, "T E"], noise: TokenNoise
    ) -> Float[Tensor, "T E"]:
        """The scores that choose; probabilities and weights come from ``logits``."""


@final
class ArgmaxPolicy(ExplorationPolicy):
    """No exploration."""

    def perturb_input(self, x: Float[Tensor, "T D"], noise: TokenNoise) -> Float[Tensor, "T D"]:
        return x

    def selection_scores(
        self, logits: Float[Tensor, "T E"], noise: TokenNoise
    ) -> Float[Tensor, "T E"]:
        return logits


@final
@dataclass(frozen=True)
class SampledSoftmaxPolicy(ExplorationPolicy):
    """Samples without replacement from the softmax at a temperature, by Gumbel noise."""

    temperature: float

    def perturb_input(self, x: Float[Tensor, "T D"], noise: TokenNoise) -> Float[Tensor, "T D"]:
        return x

    def selection_scores(
        self, logits: Float[Tensor, "T E"], noise: TokenNoise
    ) -> Float[Tensor, "T E"]:
        gumbel = noise.gumbel(Stream.SELECTION, logits.shape[1])
        return logits.detach() / self.temperature + gumbel


@final
@dataclass(frozen=True)
class InputDropoutPolicy(ExplorationPolicy):
    """Drops elements of the input and scales the rest by 1 / (1 - rate)."""

    rate: float

    def perturb_input(self, x: Float[Tensor, "T D"], noise: TokenNoise) -> Float[Tensor, "T D"]:
        keep = noise.uniform(Stream.INPUT, x.shape[1]) >= self.rate
        return x.float() * keep / (1 - self.rate)

    def selection_scores(
        self, logits: Float[Tensor, "T E"], noise: TokenNoise
    ) -> Float[Tensor, "T E"]:
        return logits


@final
@dataclass(frozen=True)
class InputJitterPolicy(ExplorationPolicy):
    """Multiplies the input by U[1 - epsilon, 1 + epsilon]."""

    epsilon: float

    def perturb_input(self, x: Float[Tensor, "T D"], noise: TokenNoise) -> Float[Tensor, "T D"]:
        spread = 2 * noise.uniform(Stream.INPUT, x.shape[1]) - 1
        return x.float() * (1 + self.epsilon * spread)

    def selection_scores(
        self, logits: Float[Tensor, "T E"], noise: TokenNoise
    ) -> Float[Tensor, "T E"]:
        return logits


@singledispatch
def build_exploration(policy: object) -> ExplorationPolicy:
    """The policy a configuration names."""
    raise TypeError(f"no exploration policy is registered for {type(policy).__name__}")


@build_exploration.register
def _(policy: config.Argmax) -> ExplorationPolicy:
    return ArgmaxPolicy()


@build_exploration.register
def _(policy: config.SampledSoftmax) -> ExplorationPolicy:
    return SampledSoftmaxPolicy(policy.temperature)


@build_exploration.register
def _(policy: config.InputDropout) -> ExplorationPolicy:
    return InputDropoutPolicy(policy.rate)


@build_exploration.register
def _(policy: config.InputJitter) -> ExplorationPolicy:
    return InputJitterPolicy(policy.epsilon)
