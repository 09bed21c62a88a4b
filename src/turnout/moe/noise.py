"""Randomness without state: noise is a hash of (row key, layer, position, stream, column).

So recomputation, micro-batches, ranks and a resumed run draw the same numbers, and padding moves
none. Axes: T tokens.
"""

import enum
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.context import RoutingContext
from turnout.moe.hashing import mix, shift_right


class Stream(enum.IntEnum):
    """What a draw is for; two uses never share numbers."""

    SELECTION = 1
    INPUT = 2
    SECOND_EXPERT = 3
    LOGITS = 4
    ORDER = 5
    FIXED_EXPERT = 6
    SECONDARY_LOGITS = 7
    OUTPUT_MASK = 8


@dataclass(frozen=True)
class TokenNoise:
    """Draws for every token of a layer from its key [T]."""

    keys: Int[Tensor, " T"]

    def uniform(self, stream: Stream, columns: int) -> Float[Tensor, "T columns"]:
        """Float32 in [0, 1), multiples of 2^-24."""
        column = torch.arange(columns, device=self.keys.device)
        bits = mix(self.keys.unsqueeze(1), int(stream), column)
        return shift_right(bits, 40).float() * 2.0**-24

    def normal(self, stream: Stream, columns: int) -> Float[Tensor, "T columns"]:
        """Float32 standard normals (Box and Muller 1958)."""
        both = self.uniform(stream, 2 * columns)
        radius = torch.sqrt(-2 * torch.log1p(-both[:, :columns]))
        return radius * torch.cos(2 * math.pi * both[:, columns:])

    def gumbel(self, stream: Stream, columns: int) -> Float[Tensor, "T columns"]:
        """Float32 standard Gumbel draws; adding them to logits samples the softmax."""
        # Zero becomes half a step, so that the exponential is never 0 and its logarithm is finite.
        exponential = -torch.log1p(-self.uniform(stream, columns).clamp(min=2.0**-25))
        gumbel: Tensor = -torch.log(exponential)
        return gumbel


def token_noise(context: RoutingContext, layer: int) -> TokenNoise:
    """The noise of layer number ``layer``, keyed by row and by position among real tokens."""
    keys = mix(context.keys.unsqueeze(1), layer, context.position)
    return TokenNoise(keys.flatten())


def position_noise(context: RoutingContext, layer: int) -> TokenNoise:
    """What evaluation takes for noise: it depends on layer and position among real tokens alone,
    so that neither keys nor the other rows of the batch matter."""
    return TokenNoise(mix(context.position.flatten(), layer))
