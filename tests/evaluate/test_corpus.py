"""BLEU and chrF: sacrebleu's own scores of the corpus, and numbers by hand."""

import sys

import pytest
import sacrebleu

from turnout.config.errors import UserError
from turnout.evaluate.metrics import corpus
from turnout.evaluate.metrics.uncertainty import difference, interval

SAID = ["the cat sat on the mat", "there is a dog in the house", "nothing like it at all"]
RIGHT = [["the cat sat on a mat"], ["there is a dog in the house"], ["quite another thing"]]


def test_the_corpus_score_is_that_of_sacrebleu() -> None:
    streams = [[each[0] for each in RIGHT]]
    assert corpus.bleu(SAID, RIGHT).value == pytest.approx(
        sacrebleu.corpus_bleu(SAID, streams).score
    )
    assert corpus.chrf(SAID, RIGHT).value == pytest.approx(
        sacrebleu.corpus_chrf(SAID, streams).score
    )


def test_bleu_by_hand() -> None:
    # a b c d e against a b c d f: precisions 4/5, 3/4, 2/3, 1/2, no brevity:
    # (1/5)^(1/4) = 0.66874.
    found = corpus.bleu(["a b c d e"], [["a b c d f"]])
    assert found.value == pytest.approx(100 * 0.2**0.25)
    # Six words against seven, all found: exp(1 - 7/6).
    assert corpus.bleu(["a b c d e f"], [["a b c d e f g"]]).value == pytest.approx(
        84.648, abs=0.01
    )


def test_the_best_of_several_references() -> None:
    """Any number of them, in each example another."""
    many = [["quite different words here", SAID[0]], [SAID[1]], ["no", "none", SAID[2]]]
    assert corpus.bleu(SAID, many).value == pytest.approx(100.0)
    assert corpus.chrf(SAID, many).value == pytest.approx(100.0)


def test_they_are_resampled_and_compared() -> None:
    worse, better = corpus.bleu(SAID, RIGHT), corpus.bleu([each[0] for each in RIGHT], RIGHT)
    sure = interval(worse)
    assert sure.low < worse.value < sure.high
    found = difference(worse, better)
    assert found.value == pytest.approx(100 - worse.value)
    # Of 2^3 swaps, and the second example is alike: 2 of the 4 that differ reach it.
    assert found.p == pytest.approx(0.5, abs=0.02)


def test_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"'bleu': needs the library sacrebleu; pip install 'turno"):
        corpus.check(("f1", "bleu"))
    corpus.check(("exact_match", "rouge_l"))
