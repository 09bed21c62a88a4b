"""Randomness without state: numbers that are functions of what they are for.

``mix`` turns a few integers (a seed, a step, a row, ..) into one well spread 64-bit integer. Who
needs a random number asks for the one of its own coordinates, so that batches can be made in any
order, cut in any way and made again. The router noise of ``turnout.moe.noise`` is the same
function on tensors.

``splitmix64(x)``, every operation modulo 2^64 and every shift logical (Steele, Lea and Flood 2014,
"Fast splittable pseudorandom number generators"; Vigna's constants)::

    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x ^ (x >> 31)

``mix(a, b, c) = splitmix64(splitmix64(splitmix64(a) ^ b) ^ c)``, read as two's complement int64.
"""

import numpy as np
from jaxtyping import Int64, UInt64

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def splitmix64(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The mixing function above, entry by entry; a bijection of the 64-bit integers."""
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    mixed: UInt64[np.ndarray, "..."] = x ^ (x >> np.uint64(31))
    return mixed


def mix(first: int | np.ndarray, *others: int | np.ndarray) -> Int64[np.ndarray, "..."]:
    """Combine integers and integer arrays (any shapes that broadcast) into int64 hashes.

    Integers count modulo 2^64, so -1 and 2^64 - 1 are the same. Plain integers alone give an
    array without dimensions; ``int(mix(1, 2))`` is the number.
    """
    mixed = splitmix64(_word(first))
    for other in others:
        mixed = splitmix64(mixed ^ _word(other))
    shape = np.broadcast_shapes(np.shape(first), *map(np.shape, others))
    return mixed.view(np.int64).reshape(shape)


def _word(value: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
    # One dimension at least: numpy warns of overflow in scalars, and here overflow is meant.
    if np.ndim(value) == 0:
        return np.array([int(value) & _WORD], dtype=np.uint64)
    return np.asarray(value).astype(np.uint64)


def permutation(size: int, *key: int) -> Int64[np.ndarray, " size"]:
    """An order of ``range(size)`` that depends on ``key`` alone."""
    return np.argsort(mix(*key, np.arange(size)), kind="stable")
