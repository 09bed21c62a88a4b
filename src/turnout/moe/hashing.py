"""The stateless hash: splitmix64 on int64 tensors, the same function as ``turnout.data.keys.mix``.

Integers wrap modulo 2^64.
"""

from jaxtyping import Int
from torch import Tensor


def splitmix64(x: Int[Tensor, "*A"]) -> Int[Tensor, "*A"]:
    """Finaliser of the splitmix64 generator, on int64 as two's complement."""
    z = x + _signed(0x9E3779B97F4A7C15)
    z = (z ^ shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ shift_right(z, 31)


def mix(first: Int[Tensor, "*A"], *rest: Int[Tensor, "*B"] | int) -> Int[Tensor, "*C"]:
    """Folds integers into one hash; the arguments broadcast."""
    mixed = splitmix64(first)
    for part in rest:
        mixed = splitmix64(mixed ^ part)
    return mixed


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def shift_right(x: Int[Tensor, "*A"], bits: int) -> Int[Tensor, "*A"]:
    """Logical shift: int64's own keeps the sign, which the mask removes."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
