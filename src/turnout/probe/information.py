"""How much one label says about another, and how often one goes with the other.

Axes: A, B values of the two labels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

SHUFFLES = 8
_SEED = 0


@dataclass(frozen=True)
class Information:
    """Mutual information of two labels in bits, and what chance gives."""

    bits: float
    chance: float

    @staticmethod
    def of(counts: Int64[np.ndarray, "A B"]) -> "Information":
        return Information(mutual_information(counts), shuffled_information(counts))


def mutual_information(counts: Int64[np.ndarray, "A B"]) -> float:
    """Bits that one label tells of the other: sum of p(a,b) log2(p(a,b) / (p(a) p(b))).

    0 for labels that are independent in ``counts``, and for an empty table.
    """
    joint = counts / max(int(counts.sum()), 1)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = counts > 0
    return max(0.0, float((joint[seen] * np.log2(joint[seen] / apart[seen])).sum()))


def entropy(counts: Int64[np.ndarray, " A"]) -> float:
    """Bits of a label: the most that anything can tell of it; 0 for no counts."""
    share = counts[counts > 0] / max(int(counts.sum()), 1)
    return max(0.0, float(-(share * np.log2(share)).sum()))


def shuffled_information(counts: Int64[np.ndarray, "A B"], shuffles: int = SHUFFLES) -> float:
    """Mean ``mutual_information`` when the second label is dealt out at random.

    What chance gives: both labels keep how often they occur. The shuffles are the same every time.
    """
    first = np.repeat(np.arange(counts.shape[0]), counts.sum(1))
    second = np.repeat(np.arange(counts.shape[1]), counts.sum(0))
    random = np.random.default_rng(_SEED)
    bits = []
    for _ in range(shuffles):
        dealt = np.zeros_like(counts)
        np.add.at(dealt, (first, random.permutation(second)), 1)
        bits.append(mutual_information(dealt))
    return float(np.mean(bits))


def lift(counts: Int64[np.ndarray, "A B"]) -> Float64[np.ndarray, "A B"]:
    """p(b | a) / p(b): how much more often than average ``b`` occurs with ``a``.

    nan where a or b does not occur at all.
    """
    row, column = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    out = np.full(counts.shape, np.nan)
    # One division of whole numbers: equal ratios are equal floats, so that ties are ties.
    np.divide(counts * int(counts.sum()), row * column, out=out, where=row * column > 0)
    return out
