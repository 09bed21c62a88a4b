"""Measures over many examples, by hand, and how sure they are."""

import math

import numpy as np
import pytest
from scipy import stats

from turnout.config.errors import UserError
from turnout.evaluate.metrics import measure
from turnout.evaluate.metrics.calibration import brier, calibration_error, probabilities
from turnout.evaluate.metrics.uncertainty import difference, interval


def test_means_ratios_and_perplexity_by_hand() -> None:
    assert measure.mean("m", [1.0, 0.0, 0.5]).value == pytest.approx(0.5)
    # 3 ln 2 + 5 ln 2 nats are 8 bits, over 4 + 12 bytes: half a bit a byte; not the mean of 3/4
    # and 5/12.
    bits = measure.per_byte("b", [3 * math.log(2), 5 * math.log(2)], [4, 12])
    assert bits.value == pytest.approx(0.5)
    # exp(8 ln 2 / 4) = 4.
    assert measure.perplexity([3 * math.log(2), 5 * math.log(2)], [3, 1]).value == pytest.approx(4)
    assert not bits.higher


def test_matthews_and_f1_by_hand() -> None:
    right = [1, 1, 1, 0, 0, 0, 0, 0]
    said = [1, 1, 0, 1, 0, 0, 0, 0]
    # TP 2, FP 1, FN 1, TN 4: (2 * 4 - 1 * 1) / sqrt(3 * 3 * 5 * 5) = 7 / 15; F1 = 4 / (4 + 2).
    assert measure.matthews(right, said).value == pytest.approx(7 / 15)
    assert measure.binary_f1(right, said).value == pytest.approx(2 / 3)
    assert measure.matthews([0, 0], [0, 0]).value == 0.0
    assert measure.binary_f1([0, 0], [0, 0]).value == 0.0


def test_pearson_against_scipy() -> None:
    said, right = ["1.0", "2.5", "nothing", "4"], [["1"], ["2"], ["0"], ["5"]]
    expected = stats.pearsonr([1.0, 2.5, -1.0, 4.0], [1, 2, 0, 5]).statistic
    assert measure.pearson(said, right).value == pytest.approx(expected)
    assert measure.pearson(["2", "2"], [["1"], ["3"]]).value == 0.0
    assert measure.pearson(["inf", "1"], [["1"], ["3"]]).value == pytest.approx(1.0)
    with pytest.raises(UserError, match="needs references that are numbers"):
        measure.pearson(["2"], [["two"]])


def test_calibration_error_by_hand() -> None:
    # Bins have a width of 1/15. 0.9 and 0.92 lie in (13/15, 14/15], 0.5 in (7/15, 8/15].
    # Right 1 of 2 against confidence 0.91: |1 - 1.82| / 3; right against 0.5: |1 - 0.5| / 3.
    found = calibration_error([0.9, 0.92, 0.5], [True, False, True])
    assert found.value == pytest.approx((0.82 + 0.5) / 3)
    # A bin holds its upper end: 1/15 is alone in the first, 0.07 in the second.
    apart = calibration_error([1 / 15, 0.07], [True, False])
    assert apart.value == pytest.approx((1 - 1 / 15 + 0.07) / 2)
    together = calibration_error([0.069, 0.07], [True, False])
    assert together.value == pytest.approx(abs(1 - 0.139) / 2)
    assert calibration_error([1.0, 1.0], [True, True]).value == 0.0


def test_brier_by_hand() -> None:
    # Three to one: probabilities 3/4 and 1/4. Right: 2 * (1/4)^2 = 1/8; wrong: 2 * (3/4)^2 = 9/8.
    spread = probabilities((math.log(3.0), 0.0))
    assert spread == pytest.approx([0.75, 0.25])
    assert brier([(spread, 0), (spread, 1)]).value == pytest.approx((1 / 8 + 9 / 8) / 2)
    # Log-likelihoods of long answers are far below what exp can hold.
    assert probabilities((-2000.0, -2000.0)) == pytest.approx([0.5, 0.5])


def test_the_interval_is_that_of_the_binomial() -> None:
    """Resampling 60 of 100 right ones is Binomial(100, 0.6) / 100: quantiles 0.50 and 0.69."""
    found = interval(measure.mean("m", [1.0] * 60 + [0.0] * 40), seed=3)
    low, high = stats.binom.ppf([0.025, 0.975], 100, 0.6) / 100
    assert found.low == pytest.approx(low, abs=0.011)
    assert found.high == pytest.approx(high, abs=0.011)


def test_an_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=50).tolist()
    one = measure.mean("m", values)
    assert interval(one, 1) == interval(one, 1) != interval(one, 2)
    assert interval(measure.mean("m", [0.25])).low == 0.25


def test_mcnemar_by_hand() -> None:
    # The first alone is right in 1, the second alone in 5, of 6: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64.
    first = [1.0] * 3 + [1.0] + [0.0] * 5 + [0.0]
    second = [1.0] * 3 + [0.0] + [1.0] * 5 + [0.0]
    found = difference(
        measure.mean("m", first, binary=True), measure.mean("m", second, binary=True)
    )
    assert found.value == pytest.approx(0.4)
    assert found.p == pytest.approx(14 / 64)
    assert found.p == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert found.test == "exact McNemar"
    same = measure.mean("m", first, binary=True)
    assert difference(same, same).p == 1.0


def test_the_permutation_is_that_of_signs() -> None:
    """Differences 1 to 6, all of one sign: 2 of 2^6 sign patterns reach their mean."""
    first = measure.mean("m", [0.0] * 6)
    second = measure.mean("m", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = difference(first, second)
    assert found.p == pytest.approx(2 / 64, abs=0.006)
    assert found.value == pytest.approx(3.5)
    assert found.test == "permutation"
    assert found.interval.low > 0
    assert difference(first, first).p == 1.0


def test_a_p_value_is_never_zero() -> None:
    values = [0.5 + number / 1000 for number in range(60)]
    found = difference(measure.mean("m", [0.0] * 60), measure.mean("m", values))
    assert found.p == pytest.approx(1 / 10_001)


def test_p_values_of_equal_models_are_even() -> None:
    """Of 200 pairs that differ by noise alone about 5 in 100 fall below 0.05."""
    generator = np.random.default_rng(1)
    below = 0
    for seed in range(200):
        one, other = generator.normal(size=(2, 30)).tolist()
        below += difference(measure.mean("m", one), measure.mean("m", other), seed).p < 0.05
    assert 2 <= below <= 20
