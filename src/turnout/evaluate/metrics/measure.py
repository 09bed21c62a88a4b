"""A score over many examples: a function of the sums of a few numbers that each example gives.

A mean is ``sum / count``; corpus BLEU, a calibration error and bits per byte are functions of more
sums. All can therefore be resampled, and compared example by example, in the same way.

Axes: N examples, K numbers an example, R resamplings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from turnout.config.errors import UserError

Of = Callable[[Float64[np.ndarray, "R K"]], Float64[np.ndarray, " R"]]


@dataclass(frozen=True)
class Measure:
    """One score.

    Attributes:
        numbers: of each example.
        of: the score, from sums of the numbers.
        higher: whether more is better.
        binary: each example is right or wrong: ``numbers`` are (right, 1).
        chance: what guessing gives, where that is known.
    """

    name: str
    numbers: Float64[np.ndarray, "N K"]
    of: Of
    higher: bool = True
    binary: bool = False
    chance: float | None = None

    @property
    def value(self) -> float:
        """The score of all examples."""
        return float(self.of(self.numbers.sum(0, keepdims=True))[0])

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.numbers)


def mean(
    name: str, values: Sequence[float], *, higher: bool = True, binary: bool = False
) -> Measure:
    """The mean of one number an example."""
    column = np.array(values, dtype=np.float64)
    return Measure(name, np.stack([column, np.ones_like(column)], 1), ratio, higher, binary)


def right_or_wrong(name: str, right: Sequence[bool], chance: float) -> Measure:
    """The share of examples that are right."""
    return replace(mean(name, [float(each) for each in right], binary=True), chance=chance)


def ratio(sums: Float64[np.ndarray, "R K"]) -> Float64[np.ndarray, " R"]:
    """The first sum over the second; 0 where both are."""
    found: Float64[np.ndarray, " R"] = sums[:, 0] / np.maximum(sums[:, 1], 1e-300)
    return found


def per_byte(name: str, nats: list[float], sizes: list[int]) -> Measure:
    """Bits per byte: the bits of all examples over all their bytes."""
    bits = np.array(nats, dtype=np.float64) / np.log(2)
    return Measure(name, np.stack([bits, np.array(sizes, np.float64)], 1), ratio, higher=False)


def perplexity(nats: list[float], tokens: list[int]) -> Measure:
    """``exp`` of the nats of all examples over all their tokens."""
    numbers = np.stack([np.array(nats, np.float64), np.array(tokens, np.float64)], 1)
    return Measure("perplexity", numbers, lambda sums: np.exp(ratio(sums)), higher=False)


def matthews(right: list[int], said: list[int]) -> Measure:
    """Matthews' correlation of two labels; 0 where one of them never occurs."""
    return Measure("matthews", _confusion(right, said), _matthews)


def binary_f1(right: list[int], said: list[int]) -> Measure:
    """F1 of the second of two labels, over all examples."""
    return Measure("f1", _confusion(right, said), _f1)


def _confusion(right: list[int], said: list[int]) -> Float64[np.ndarray, "N 4"]:
    """True positives, false positives, false negatives, true negatives."""
    one, other = np.array(right, bool), np.array(said, bool)
    cells = [one & other, ~one & other, one & ~other, ~one & ~other]
    return np.stack(cells, 1).astype(np.float64)


def _matthews(sums: Float64[np.ndarray, "R 4"]) -> Float64[np.ndarray, " R"]:
    tp, fp, fn, tn = sums.T
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found: Float64[np.ndarray, " R"] = (tp * tn - fp * fn) / np.where(below == 0, np.inf, below)
    return found


def _f1(sums: Float64[np.ndarray, "R 4"]) -> Float64[np.ndarray, " R"]:
    tp, fp, fn, _ = sums.T
    found: Float64[np.ndarray, " R"] = 2 * tp / np.maximum(2 * tp + fp + fn, 1e-300)
    return found


def pearson(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """Pearson's correlation of numbers; an answer that is none counts as -1, as in T5's code.

    Raises:
        UserError: a reference that is no number.
    """
    said = np.array([_as_number(answer, -1.0) for answer in answers])
    right = np.array([_as_number(each[0], math.nan) for each in references])
    if not np.isfinite(right).all():
        raise UserError("metrics = 'pearson': needs references that are numbers")
    columns = [np.ones_like(said), said, right, said * said, right * right, said * right]
    return Measure("pearson", np.stack(columns, 1), _pearson)


def _as_number(text: str, otherwise: float) -> float:
    try:
        found = float(text)
    except ValueError:
        return otherwise
    return found if math.isfinite(found) else otherwise


def _pearson(sums: Float64[np.ndarray, "R 6"]) -> Float64[np.ndarray, " R"]:
    """0 where one of the two does not vary."""
    count, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum(count * xx - x * x, 0) * np.maximum(count * yy - y * y, 0))
    found: Float64[np.ndarray, " R"] = (count * xy - x * y) / np.where(spread > 0, spread, np.inf)
    return found
