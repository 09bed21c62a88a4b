"""Splits, levels and pairs by hand, and what holds for any of them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.data.fetch.tasks.questions import ask, canonical, level, pairs, split_of


def test_a_question_is_a_line_of_json() -> None:
    question = ask("fact: Where?", ("there", "hère"), "hère", "place", "it", ["yonder"])
    assert question.line == (
        '{"inputs": "fact: Where?", "targets": "hère", "choices": ["there", "hère"], '
        '"answer": 1, "relation": "place", "entity": "it", "references": ["hère", "yonder"]}\n'
    )
    with pytest.raises(ValueError, match="not in list"):
        ask("?", ("a", "b"), "c", "r", "e")


def test_an_entity_is_in_one_split_whatever_its_letters_size() -> None:
    assert split_of("France", 0) == split_of("FRANCE", 0)
    found = Counter(split_of(f"entity {number}", 0) for number in range(5000))
    # A tenth each is 500; five standard deviations of a binomial are 5 * sqrt(5000 * 0.09) = 106.
    assert abs(found["test"] - 500) < 106
    assert abs(found["validation"] - 500) < 106
    other = [split_of(f"entity {number}", 1) for number in range(100)]
    assert other != [split_of(f"entity {number}", 0) for number in range(100)]


def test_names_are_the_same_however_they_are_written() -> None:
    for one, other in (
        ("Greek, Modern (1453-)", "modern Greek (1453-)"),
        ("Farg\u2018ona", "FARG'ONA"),
    ):
        assert canonical(one) == canonical(other)
    assert canonical("Yucatán") == "yucatan"
    assert canonical("?!") == "?!"
    assert canonical("New Town") != canonical("Newtown")


def test_levels_by_hand() -> None:
    # 2 + 3 + 5 + 5 = 15 with a level of 5; one more would give 17.
    assert level([2, 3, 9, 9], 16, 100) == 5
    assert level([2, 3, 9, 9], 16, 4) == 4
    assert level([2, 3], 100, 50) == 50
    assert level([9, 9, 9], 2, 9) == 0


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(0, 200), st.integers(0, 60)
)
def test_a_level_is_the_highest_that_fits(counts: list[int], total: int, most: int) -> None:
    found = level(counts, total, most)

    def taken(cap: int) -> int:
        return sum(min(count, cap) for count in counts)

    assert taken(found) <= total
    assert found == most or taken(found + 1) > total


def test_pairs_by_hand() -> None:
    # 1 waits, 11 is like it, 12 is not: (1, 12); then 21 is like 11, 32 is not: (11, 32).
    assert pairs([1, 11, 12, 21, 32], lambda a, b: a % 10 == b % 10, 9) == [(1, 12), (11, 32)]
    assert pairs([1, 2, 3, 4], lambda a, b: False, 1) == [(1, 2)]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 30))
def test_no_item_is_in_two_pairs_and_none_clash(items: list[int], most: int) -> None:
    numbered = list(enumerate(items))
    found = pairs(numbered, lambda a, b: a[1] == b[1], most)
    assert len(found) <= most
    assert all(a[1] != b[1] for a, b in found)
    used = [one for pair in found for one in pair]
    assert len(used) == len(set(used))
