"""Randomness without state: noise is a hash of (row key, layer, position, stream, column).

So recomputation, micro-batches, ranks and a resumed run draw the same numbers, and padding moves
none. The hash is splitmix64, the same function as ``turnout.data.keys.mix``; integers wrap modulo
2^64. Axes: T tokens.
"""

import enum
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.context import RoutingContext


class Stream(enum.IntEnum):
    """What a draw is for; two uses never share numbers."""

    SELECTION = 1
    INPUT = 2
    SECOND_EXPERT = 3
    LOGITS = 4
    ORDER = 5


def splitmix64(x: Int[Tensor, "*A"]) -> Int[Tensor, "*A"]:
    """Finaliser of the splitmix64 generator, on int64 as two's complement."""
    z = x + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def mix(first: Int[Tensor, "*A"], *rest: Int[Tensor, "*B"] | int) -> Int[Tensor, "*C"]:
    """Folds integers into one hash; the arguments broadcast."""
    mixed = splitmix64(first)
    for part in rest:
        mixed = splitmix64(mixed ^ part)
    return mixed


@dataclass(frozen=True)
class TokenNoise:
    """Draws for every token of a layer from its key [T]."""

    keys: Int[Tensor, " T"]

    def uniform(self, stream: Stream, columns: int) -> Float[Tensor, "T columns"]:
        """Float32 in [0, 1), multiples of 2^-24."""
        column = torch.arange(columns, device=self.keys.device)
        bits = mix(self.keys.unsqueeze(1), int(stream), column)
        return _shift_right(bits, 40).float() * 2.0**-24

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


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Int[Tensor, "*A"], bits: int) -> Int[Tensor, "*A"]:
    # int64 shifts keep the sign; the mask makes the shift logical.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
