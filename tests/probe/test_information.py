"""Mutual information, entropy and lift against sums worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.probe.information import entropy, lift, mutual_information, shuffled_information


def table(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def test_mutual_information_by_hand():
    # Eight pairs: p = 3/8 twice and 1/8 twice, every margin 1/2, so p(a) p(b) = 1/4.
    # 2 * 3/8 * log2(3/8 / 1/4) + 2 * 1/8 * log2(1/8 / 1/4)
    # = 0.75 * log2(1.5) + 0.25 * log2(0.5) = 0.75 * 0.5849625 - 0.25 = 0.1887219
    assert mutual_information(table([3, 1], [1, 3])) == pytest.approx(0.1887219, abs=1e-7)


def test_mutual_information_at_its_ends():
    # One of two, each known from the other: log2(2) = 1 bit.
    assert mutual_information(table([4, 0], [0, 4])) == pytest.approx(1.0)
    # Products of the margins: 1 * 3 / 4 and so on, nothing to tell.
    assert mutual_information(table([1, 3], [2, 6])) == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(table([0, 0], [0, 0])) == 0.0


def test_entropy_by_hand():
    # 1/2 * 1 + 2 * 1/4 * 2 = 1.5 bits; a label that never occurs adds nothing.
    assert entropy(np.array([2, 1, 1, 0])) == pytest.approx(1.5)
    assert entropy(np.array([0, 0])) == 0.0
    assert str(entropy(np.array([7]))) == "0.0"


def test_lift_by_hand():
    # Margins 4, 4 and 4, 4 of 8: expected 2 everywhere; 3 / 2 and 1 / 2.
    assert lift(table([3, 1], [1, 3])).tolist() == [[1.5, 0.5], [0.5, 1.5]]


def test_lift_of_what_does_not_occur():
    found = lift(table([2, 0, 0], [0, 0, 0]))
    assert found[0, 0] == 1.0
    assert np.isnan(found[0, 1])
    assert np.isnan(found[1]).all()


def test_chance_is_small_and_the_same_every_time():
    # 200 pairs that tell all: 1 bit. By chance about (A - 1)(B - 1) / (2 N ln 2)
    # = 1 / (2 * 200 * 0.693) = 0.0036 bits.
    counts = table([100, 0], [0, 100])
    chance = shuffled_information(counts)
    assert 0 < chance < 0.02
    assert chance == shuffled_information(counts)


def test_chance_of_an_empty_table():
    assert shuffled_information(np.zeros((3, 4), dtype=np.int64)) == 0.0


def test_chance_keeps_both_margins():
    # With a single value of either label nothing can be told, shuffled or not.
    assert shuffled_information(table([5, 3, 2])) == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=5))
def test_information_is_bounded_by_both_entropies(rows: list[list[int]]):
    counts = table(*rows)
    bits = mutual_information(counts)
    assert 0 <= bits <= min(entropy(counts.sum(0)), entropy(counts.sum(1))) + 1e-9
    assert bits == pytest.approx(mutual_information(counts.T), abs=1e-12)
