"""Placements and copies by hand, by properties, and against all exchanges of two experts."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout.simulate.what_if.placement import (
    Arrangement,
    bound,
    contiguous,
    placed,
    replicated,
)

Case = tuple[np.ndarray, int]


@st.composite
def loads(draw: st.DrawFn) -> Case:
    """Rows [C, E] of few micro-batches, and ranks that share out the experts."""
    ranks = draw(st.integers(1, 4))
    experts = ranks * draw(st.integers(1, 3))
    row = st.lists(st.integers(0, 50), min_size=experts, max_size=experts)
    return np.array(draw(st.lists(row, min_size=1, max_size=4))), ranks


def waited(home: Arrangement, rows: np.ndarray) -> int:
    return int(home.fullest(rows).sum())


def test_the_longest_go_first_to_the_emptiest_rank() -> None:
    # In order 6 + 5 stand against 2 + 1. By size: 6 left, 5 right, 2 right (7), 1 left (7).
    rows = np.array([[6, 5, 2, 1]])
    assert contiguous(4, 2).arrived(rows).tolist() == [[11, 3]]
    assert placed(rows, 2).by_rank() in (((0, 3), (1, 2)), ((1, 2), (0, 3)))
    assert placed(rows, 2).arrived(rows).tolist() == [[7, 7]]
    assert bound(rows, 2).tolist() == [7.0]


def test_experts_that_are_asked_for_together_are_parted() -> None:
    # All have 4 rows in all, but two at a time: in order 8 + 8 rows are waited for, parted 4 + 4.
    rows = np.array([[4, 4, 0, 0], [0, 0, 4, 4]])
    assert waited(contiguous(4, 2), rows) == 16
    assert waited(placed(rows, 2), rows) == 8


def test_exchanges_go_on_where_the_longest_first_is_not_best() -> None:
    # By size onto two ranks of three places: 8 left, 7 right, 6 right, 5 left, 4 to either (13),
    # the first, which is then full: 17, and 3 to the other: 16. Nothing is better: 33 is odd.
    rows = np.array([[8, 7, 6, 5, 4, 3]])
    assert waited(placed(rows, 2), rows) == 17
    # 5 5 4 3 3 by size, and 0: left 5, right 5, left 4 (the first of equals), right 3, right 3 and
    # full at 11, left 0 at 9. Exchanging the right 5 for the left 4 gives 10 and 10.
    rows = np.array([[5, 5, 4, 3, 3, 0]])
    assert waited(placed(rows, 2), rows) == 10


def test_one_expert_is_the_bound() -> None:
    rows = np.array([[90, 1, 1, 0]])
    assert bound(rows, 2).tolist() == [90.0]
    assert waited(placed(rows, 2), rows) == 90  # beside the expert without rows


def test_copies_deal_the_rows_out() -> None:
    # Two spare places: the first goes to expert 0 (9 rows), which then has a copy on each rank;
    # the second to expert 1, first of those with 1 row. 9 rows are dealt 5 and 4, 1 row 1 and 0:
    # 12 rows, 6 on each rank.
    rows = np.array([[9, 1, 1, 1]])
    home = replicated(rows, placed(rows, 2), 1)
    assert home.expert.tolist() == [0, 0, 1, 1, 2, 3]
    assert home.dealt(rows).tolist() == [[5, 4, 1, 0, 1, 1]]
    assert home.arrived(rows).tolist() == [[6, 6]]
    assert waited(placed(rows, 2), rows) == 10


def test_what_asks_for_nothing_is_not_copied() -> None:
    rows = np.array([[4, 0, 0, 0]])
    home = replicated(rows, placed(rows, 2), 2)
    assert np.bincount(home.expert).tolist() == [2, 1, 1, 1]


@given(loads())
def test_every_rank_has_as_many_experts_and_none_is_worse_off(case: Case) -> None:
    rows, ranks = case
    home = placed(rows, ranks)
    assert np.bincount(home.rank, minlength=ranks).tolist() == [rows.shape[1] // ranks] * ranks
    assert sorted(expert for own in home.by_rank() for expert in own) == list(range(rows.shape[1]))
    assert home.arrived(rows).sum(1).tolist() == rows.sum(1).tolist()
    assert float(bound(rows, ranks).sum()) <= waited(home, rows)
    assert waited(home, rows) <= waited(contiguous(rows.shape[1], ranks), rows)


@given(loads())
def test_no_exchange_of_two_experts_is_left_that_helps(case: Case) -> None:
    rows, ranks = case
    home = placed(rows, ranks)
    for one, other in combinations(range(rows.shape[1]), 2):
        rank = home.rank.copy()
        rank[[one, other]] = rank[[other, one]]
        assert waited(Arrangement(home.expert, rank, ranks), rows) >= waited(home, rows)


@given(loads(), st.integers(0, 3))
def test_copies_keep_all_rows_and_are_no_worse_where_they_were_fitted(
    case: Case, spare: int
) -> None:
    rows, ranks = case
    alone = placed(rows, ranks)
    home = replicated(rows, alone, spare)
    assert set(home.expert.tolist()) == set(range(rows.shape[1]))
    assert np.bincount(home.rank).max() <= rows.shape[1] // ranks + spare
    assert np.bincount(home.expert).max() <= ranks
    dealt = home.dealt(rows)
    for expert in range(rows.shape[1]):
        own = dealt[:, home.expert == expert]
        assert own.sum(1).tolist() == rows[:, expert].tolist()
        assert (own.max(1) - own.min(1)).max() <= 1
    assert waited(home, rows) <= waited(alone, rows)
    if spare == 0:
        assert home is alone


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_placing_half_of_a_skewed_load_helps_the_other_half(seed: int) -> None:
    # 32 micro-batches of 64 rows over 16 experts, popular by place: the first eight have 3/4.
    shares = np.repeat([0.75 / 8, 0.25 / 8], 8)
    rows = np.random.default_rng(seed).multinomial(64, shares, size=32)
    home = placed(rows[:16], 2)
    assert waited(home, rows[16:]) < waited(contiguous(16, 2), rows[16:])


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_an_even_load_waits_for_nobody(ranks: int) -> None:
    rows = np.full((3, 8), 5)
    assert waited(placed(rows, ranks), rows) == 3 * 40 // ranks
