"""Scores of one answer against its references, in [0, 1]; the best reference counts."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"[a-z0-9]+")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """As SQuAD compares answers (1606.05250, section 6.1): lower case, without ASCII punctuation,
    then without articles, words one blank apart."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Whether the normalised answer is a normalised reference."""
    return float(normalised(answer) in map(normalised, references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the words that both have (SQuAD, section 6.1)."""
    return _best(_f1, answer, references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F measure of the longest common subsequence of words (ROUGE, Lin 2004, section 3), with
    precision and recall of equal weight.

    Words are runs of the letters a to z and digits, lower-cased, without stemming.
    """
    return _best(_rouge_l, answer, references)


def _best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    return max(score(answer, reference) for reference in references)


def _f1(answer: str, reference: str) -> float:
    said, right = normalised(answer).split(), normalised(reference).split()
    if not said or not right:
        return float(said == right)
    return _mean(sum((Counter(said) & Counter(right)).values()), len(said), len(right))


def _rouge_l(answer: str, reference: str) -> float:
    said, right = (_WORD.findall(text.lower()) for text in (answer, reference))
    return _mean(_common(said, right), len(said), len(right))


def _mean(shared: int, said: int, right: int) -> float:
    """``2 P R / (P + R)`` with P = shared / said and R = shared / right."""
    return 2 * shared / (said + right) if shared else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    longest = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, against in enumerate(other, 1):
            above = longest[place]
            longest[place] = diagonal + 1 if word == against else max(above, longest[place - 1])
            diagonal = above
    return longest[-1]
