"""Scores of words, by hand."""

import pytest

from turnout.evaluate.metrics.words import exact_match, f1, normalised, rouge_l


def test_normalisation_is_that_of_squad() -> None:
    assert normalised("  The cat's   HAT, and a dog! ") == "cats hat and dog"
    # Punctuation goes before articles do, so that "a-n" is the word "an" by then.
    assert normalised("a-n apple") == "apple"
    assert normalised("theatre anthem") == "theatre anthem"
    assert normalised("The.") == ""


def test_exact_match_takes_any_reference() -> None:
    assert exact_match("the Eiffel Tower.", ["Tower", "Eiffel tower"]) == 1.0
    assert exact_match("Eiffel", ["Eiffel tower"]) == 0.0
    assert exact_match("", ["the"]) == 1.0  # both are nothing


def test_f1_by_hand() -> None:
    # Said: cat sat on mat; right: cat lay on mat mat. Both have cat, on, mat: P 3/4, R 3/5,
    # F 2 * 3 / (4 + 5) = 2/3.
    assert f1("The cat sat on a mat", ["cat lay on the mat mat"]) == pytest.approx(2 / 3)
    # Three times the same word counts as often as the reference has it: P 1/3, R 1, F 1/2.
    assert f1("yes yes yes", ["yes"]) == pytest.approx(0.5)
    assert f1("no", ["yes"]) == 0.0
    # The better of two: 2 * 1 / (1 + 2) beats 2 * 1 / (1 + 3).
    assert f1("paris", ["paris in france", "paris france"]) == pytest.approx(2 / 3)
    # Nothing was asked for, and nothing said; and something where nothing was asked for.
    assert f1("the", ["a"]) == 1.0
    assert f1("word", ["a"]) == 0.0


def test_rouge_l_by_hand() -> None:
    # police killed the gunman / police kill the gunman: the longest common subsequence is
    # police the gunman, P = R = F = 3/4 (the example of Lin's paper).
    assert rouge_l("police kill the gunman", ["Police killed the gunman."]) == pytest.approx(0.75)
    # the gunman kill police: the gunman; 2/4.
    assert rouge_l("the gunman kill police", ["police killed the gunman"]) == pytest.approx(0.5)
    # Lengths 2 and 4, common 2: 2 * 2 / 6.
    assert rouge_l("a d", ["a b c d"]) == pytest.approx(2 / 3)
    assert rouge_l("", ["a"]) == 0.0
    assert rouge_l("?", ["!"]) == 0.0
    assert rouge_l("x-ray 7", ["x ray 7"]) == 1.0  # words are letters and digits


def test_rouge_l_against_a_search_through_all_subsequences() -> None:
    from itertools import combinations

    def longest(one: list[str], other: list[str]) -> int:
        def within(words: tuple[str, ...]) -> bool:
            rest = iter(other)
            return all(word in rest for word in words)

        sizes = range(len(one), 0, -1)
        return next((n for n in sizes for c in combinations(one, n) if within(c)), 0)

    texts = ["a b c a b d", "b a d c a b", "c c a", "d", "a b a b a b"]
    for one in texts:
        for other in texts:
            common = longest(one.split(), other.split())
            expected = 2 * common / (len(one.split()) + len(other.split()))
            assert rouge_l(one, [other]) == pytest.approx(expected)
