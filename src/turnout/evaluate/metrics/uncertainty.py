"""How sure a score is, and whether two differ.

Axes: N examples, K numbers an example, R resamplings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float64

from turnout.evaluate.metrics.measure import Measure

RESAMPLES = 1000
PERMUTATIONS = 10_000
LEVEL = 0.95
_CELLS = 1 << 22  # of a block of resamplings


@dataclass(frozen=True)
class Interval:
    """Where 95 of 100 bootstrap resamplings lie."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of two models on the same examples: the second minus the first.

    Attributes:
        p: two-sided, that such a difference or a larger one comes about where the models are alike.
        test: how ``p`` was found.
    """

    value: float
    interval: Interval
    p: float
    test: str


def interval(measure: Measure, seed: int = 0) -> Interval:
    """The percentile bootstrap (Efron, 1979): examples drawn anew with replacement 1,000 times."""
    parts = [measure.of(counts @ measure.numbers) for counts in resamplings(measure.count, seed)]
    return middle(np.concatenate(parts))


def difference(one: Measure, other: Measure, seed: int = 0) -> Difference:
    """The difference of two measures of the same examples, in order.

    The interval is that of a paired bootstrap: both are resampled alike. p is exact (McNemar, 1947)
    where examples are right or wrong, and else of a permutation test: in each of 10,000 rounds the
    two change places in an example or not, by lot; for a mean that is the sign-flip test. p counts
    the round that was observed too, so that it is never 0.
    """
    apart = [
        other.of(counts @ other.numbers) - one.of(counts @ one.numbers)
        for counts in resamplings(one.count, seed)
    ]
    value = other.value - one.value
    found = middle(np.concatenate(apart))
    if one.binary:
        return Difference(value, found, _mcnemar(one, other), "exact McNemar")
    return Difference(value, found, _permuted(one, other, abs(value), seed), "permutation")


def middle(values: Float64[np.ndarray, " R"]) -> Interval:
    """Where the middle 95 of 100 values lie."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def resamplings(
    count: int, seed: int, times: int = RESAMPLES
) -> Iterator[Float64[np.ndarray, "R N"]]:
    """How often each of so many resamplings draws each of ``count`` examples, in blocks."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    for size in _blocks(count, times):
        yield generator.multinomial(count, even, size=size).astype(np.float64)


def _mcnemar(one: Measure, other: Measure) -> float:
    """Of the examples that one alone has right, as many or fewer than the rarer of the two, by a
    fair coin: ``2 sum_(i <= min) C(n, i) / 2^n``, at most 1."""
    first, second = (measure.numbers[:, 0] > 0.5 for measure in (one, other))
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    total = lost + won
    tail = sum(comb(total, i) for i in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**total))


def _permuted(one: Measure, other: Measure, observed: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    apart = other.numbers - one.numbers
    reached = 1
    for size in _blocks(one.count, PERMUTATIONS):
        swapped = generator.integers(0, 2, (size, one.count)).astype(np.float64) @ apart
        left = one.of(one.numbers.sum(0) + swapped)
        right = other.of(other.numbers.sum(0) - swapped)
        # Sums in another order differ in their last bits.
        reached += int((np.abs(right - left) >= observed * (1 - 1e-9)).sum())
    return reached / (PERMUTATIONS + 1)


def _blocks(count: int, total: int) -> list[int]:
    size = max(1, min(total, _CELLS // count))
    return [min(size, total - at) for at in range(0, total, size)]
