"""Rotary frequencies for rows longer than those of the training, by the configured kind.

Axes: P pairs of a head's rotated width, the fastest first.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.rotary_scaling import LinearScaling, Llama3Scaling, RotaryScaling, YarnScaling


class Scaling(ABC):
    """What a scaling does to the rotation of every pair.

    Attributes:
        magnitude: factor on cosines and sines.
    """

    @property
    @abstractmethod
    def magnitude(self) -> float: ...

    @abstractmethod
    def scaled(self, frequency: Float[Tensor, " P"], theta: float) -> Float[Tensor, " P"]:
        """``frequency`` [radians a token], which was ``theta^(-p / P)``, as it shall be."""


@singledispatch
def rotary_scaling(config: RotaryScaling | None) -> Scaling:
    """The scaling that a configuration asks for."""
    raise UserError(f"model.positions.scaling = {config!r}: no such scaling")


@final
@dataclass(frozen=True)
class Unscaled(Scaling):
    """Frequencies as they are."""

    @property
    def magnitude(self) -> float:
        return 1.0

    def scaled(self, frequency: Float[Tensor, " P"], theta: float) -> Float[Tensor, " P"]:
        return frequency


@final
@dataclass(frozen=True)
class Linear(Scaling):
    """See ``LinearScaling``."""

    config: LinearScaling

    @property
    def magnitude(self) -> float:
        return 1.0

    def scaled(self, frequency: Float[Tensor, " P"], theta: float) -> Float[Tensor, " P"]:
        return frequency / self.config.factor


@final
@dataclass(frozen=True)
class Yarn(Scaling):
    """See ``YarnScaling``."""

    config: YarnScaling

    @property
    def magnitude(self) -> float:
        return self.config.magnitude

    def scaled(self, frequency: Float[Tensor, " P"], theta: float) -> Float[Tensor, " P"]:
        pairs = frequency.shape[0]
        low, high = self.config.ramp(theta, 2 * pairs)
        pair = torch.arange(pairs, device=frequency.device, dtype=torch.float32)
        interpolated = ((pair - low) / (high - low)).clamp(0, 1)
        return torch.lerp(frequency, frequency / self.config.factor, interpolated)


@final
@dataclass(frozen=True)
class Llama3(Scaling):
    """See ``Llama3Scaling``."""

    config: Llama3Scaling

    @property
    def magnitude(self) -> float:
        return 1.0

    def scaled(self, frequency: Float[Tensor, " P"], theta: float) -> Float[Tensor, " P"]:
        low, high = self.config.low_frequency, self.config.high_frequency
        turns = frequency * (self.config.original_length / (2 * math.pi))
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return torch.lerp(frequency / self.config.factor, frequency, kept)


@rotary_scaling.register
def _(config: None) -> Scaling:
    return Unscaled()


@rotary_scaling.register
def _(config: LinearScaling) -> Scaling:
    return Linear(config)


@rotary_scaling.register
def _(config: YarnScaling) -> Scaling:
    return Yarn(config)


@rotary_scaling.register
def _(config: Llama3Scaling) -> Scaling:
    return Llama3(config)
