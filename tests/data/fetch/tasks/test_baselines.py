"""What baselines reach on questions whose answers are known to depend on one thing."""

import numpy as np
import pytest

from turnout.data.fetch.tasks.baselines import fit, scores
from turnout.data.fetch.tasks.questions import Built, Question, ask

YES_NO = ("yes", "no")


def binary(text: str, answer: str) -> Question:
    return ask(text, YES_NO, answer, "r", text)


def test_words_tell_and_other_views_do_not() -> None:
    train = [
        binary(f"say {n} {w}", a) for n in range(20) for w, a in (("good", "yes"), ("bad", "no"))
    ]
    test = [binary("quite good", "yes"), binary("quite bad", "no"), binary("so bad", "no")]
    found = scores(
        Built({"train": train, "validation": [], "test": test}),
        {"words": lambda one: one.inputs, "first": lambda one: one.inputs.split()[0]},
    ).whole["test"]
    # Training has as many of either, and the first of equals is "yes": one of three.
    assert found["chance"] == 0.5
    assert found["majority"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["words"] == 1.0
    assert found["first"] in (round(1 / 3, 4), round(2 / 3, 4))  # one answer for all


def test_pairs_of_words_tell() -> None:
    pairs = [("a b", "yes"), ("b a", "no"), ("c d", "yes"), ("d c", "no")]
    train = [binary(text, answer) for text, answer in pairs * 5]
    built = Built({"train": train, "validation": [], "test": train[:4]})
    assert scores(built, {"words": lambda one: one.inputs}).whole["test"]["words"] == 1.0


def test_choices_by_hand() -> None:
    def question(text: str, right: str) -> Question:
        return ask(text, ("Rome", "Bern", "Mexico City"), right, "capital", text)

    train = [
        question("of Italy", "Rome"),
        question("by the Tiber", "Rome"),
        question("of Swiss", "Bern"),
    ]
    test = [question("of Mexico", "Mexico City"), question("the Swiss town", "Bern")]
    test.append(ask("only two", ("x", "Rome"), "Rome", "capital", "two"))
    built = Built({"train": train, "validation": [], "test": test, "memory": train})
    told = scores(built, {})
    assert told.relations["test"] == {"capital": told.whole["test"]}
    found = told.whole
    # Chance is (1/3 + 1/3 + 1/2) / 3; Rome is most often right, and of the three once.
    assert found["test"]["chance"] == pytest.approx(7 / 18, abs=1e-4)
    assert found["test"]["majority"] == pytest.approx(1 / 3, abs=1e-4)
    # Mexico City is never right in training, and neither is x: one of three.
    assert found["test"]["rarest"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["test"]["spelling"] >= round(1 / 3, 4)
    assert found["memory"]["words"] == 1.0
    assert found["memory"]["majority"] == pytest.approx(2 / 3, abs=1e-4)


def test_relations_are_told_apart() -> None:
    train = [ask("a", YES_NO, "yes", "r", "a"), ask("b", YES_NO, "no", "s", "b")]
    test = [ask("c", YES_NO, "yes", "r", "c"), ask("d", YES_NO, "yes", "s", "d")]
    found = scores(Built({"train": train, "validation": [], "test": test}), {})
    assert found.whole["test"]["majority"] == 0.5
    assert {name: row["majority"] for name, row in found.relations["test"].items()} == {
        "r": 1.0,
        "s": 0.0,
    }


def test_the_bias_alone_learns_the_odds() -> None:
    """With no word at all the best logit is ln(3) = 1.0986 for three of four."""
    empty = np.zeros(0, dtype=np.int64)
    weights = fit(empty, empty, np.array([1.0, 1.0, 1.0, 0.0]))
    assert weights[-1] == pytest.approx(np.log(3), abs=0.1)
    assert not weights[:-1].any()
