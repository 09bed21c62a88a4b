"""BLEU (Papineni et al., 2002) and chrF (Popovic, 2015) of a corpus, by sacrebleu.

Both are from 0 to 100. An example gives the counts of its n-grams; the score is one of their sums.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float64

from turnout.config.errors import UserError
from turnout.evaluate.metrics.measure import Measure

INSTALL = "pip install 'turnout[evaluate]'"


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """BLEU of ``answers``, each against any number of references.

    Raises:
        UserError: sacrebleu is not installed.
    """
    return _measure("bleu", _library("bleu").BLEU(force=True), answers, references)


def chrf(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """chrF of ``answers`` (characters to 6-grams, beta 2); as ``bleu``."""
    return _measure("chrf", _library("chrf").CHRF(), answers, references)


def check(metrics: Sequence[str]) -> None:
    """Refuse, before a model has written anything, what cannot be scored.

    Raises:
        UserError: sacrebleu is asked for and not installed.
    """
    for name in metrics:
        if name in ("bleu", "chrf"):
            _library(name)


def _measure(
    name: str, metric: Any, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Measure:
    most = max(map(len, references))
    streams = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
    numbers = np.array(metric._extract_corpus_statistics([*answers], streams), dtype=np.float64)

    def of(sums: Float64[np.ndarray, "R K"]) -> Float64[np.ndarray, " R"]:
        whole = np.rint(sums).astype(np.int64).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in whole])

    return Measure(name, numbers, of)


def _library(name: str) -> Any:
    try:
        import_module("sacrebleu")
    except ImportError as error:
        raise UserError(f"metrics = {name!r}: needs the library sacrebleu; {INSTALL}") from error
    return import_module("sacrebleu.metrics")
