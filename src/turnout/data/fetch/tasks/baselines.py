"""What is reached without understanding, so that a reader knows what a score means.

Axes: E examples, W places of the hash of a word, N words of all examples.
"""

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from turnout.data.fetch.tasks.questions import MEMORY, TEST, TRAIN, Built, Question, View

_Way = Callable[[Sequence[Question]], list[str]]

_WORD = re.compile(r"\w+", re.UNICODE)
_PLACES = 1 << 17
_STEPS = 120
_RATE = 0.3
_DECAY = 1e-5
_LONGEST = 400  # words read of an example


@dataclass(frozen=True)
class Scores:
    """Accuracies by split and baseline, and by split, relation and baseline."""

    whole: Mapping[str, Mapping[str, float]]
    relations: Mapping[str, Mapping[str, Mapping[str, float]]]


def scores(built: Built, views: Mapping[str, View]) -> Scores:
    """The accuracy of each baseline on the held-out splits.

    ``chance`` draws one of the choices. ``majority`` takes the one that is most often right in
    training, of the same relation, and ``rarest`` the one that is least often. Where all questions
    have the same choices, every view adds a logistic regression over its words and pairs of words;
    elsewhere ``words`` is naive Bayes over the question's words, and ``spelling`` takes the choice
    most like the question.
    """
    ways = _ways(built, views)
    whole: dict[str, dict[str, float]] = {}
    relations: dict[str, dict[str, dict[str, float]]] = {}
    for split in (TEST, MEMORY):
        some = built.splits.get(split, ())
        if not some:
            continue
        told = {"chance": [1 / len(one.choices) for one in some]}
        for name, way in ways.items():
            answers = zip(some, way(some), strict=True)
            told[name] = [float(one.targets == answer) for one, answer in answers]
        whole[split] = _means(told, range(len(some)))
        places: dict[str, list[int]] = {}
        for place, one in enumerate(some):
            places.setdefault(one.relation, []).append(place)
        relations[split] = {name: _means(told, here) for name, here in sorted(places.items())}
    return Scores(whole, relations)


def _ways(built: Built, views: Mapping[str, View]) -> dict[str, _Way]:
    train = built.splits[TRAIN]
    ways: dict[str, _Way] = {"majority": _counted(train, 1)}
    if len({frozenset(one.choices) for some in built.splits.values() for one in some}) == 1:
        return ways | {name: _linear(train, view) for name, view in views.items()}
    return ways | {
        "rarest": _counted(train, -1),
        "words": _bayes(train),
        "spelling": _spelling,
    }


def _means(told: Mapping[str, Sequence[float]], places: Sequence[int]) -> dict[str, float]:
    return {
        name: round(sum(right[place] for place in places) / len(places), 4)
        for name, right in told.items()
    }


def _counted(train: Sequence[Question], sign: int) -> _Way:
    counts = Counter((one.relation, one.targets) for one in train)

    def answer(some: Sequence[Question]) -> list[str]:
        return [
            max(one.choices, key=lambda choice, one=one: sign * counts[one.relation, choice])  # type: ignore[misc]
            for one in some
        ]

    return answer


def _bayes(train: Sequence[Question]) -> _Way:
    """Naive Bayes with add-one smoothing; an answer never seen has nothing but its smoothing."""
    answers = Counter((one.relation, one.targets) for one in train)
    words = Counter(
        (one.relation, one.targets, word) for one in train for word in _words(one.inputs)
    )
    known = len({word for _, _, word in words}) + 1

    def score(one: Question, choice: str) -> float:
        seen = answers[one.relation, choice]
        return math.log(seen + 1) + sum(
            math.log((words[one.relation, choice, word] + 1) / (seen + known))
            for word in _words(one.inputs)
        )

    def answer(some: Sequence[Question]) -> list[str]:
        return [max(one.choices, key=lambda choice, one=one: score(one, choice)) for one in some]  # type: ignore[misc]

    return answer


def _spelling(some: Sequence[Question]) -> list[str]:
    """The choice of whose triples of letters the question has the largest share."""

    def share(question: Question, choice: str) -> float:
        triples = _triples(choice)
        return len(triples & _triples(question.inputs)) / max(len(triples), 1)

    return [max(one.choices, key=lambda choice, one=one: share(one, choice)) for one in some]  # type: ignore[misc]


def _triples(text: str) -> frozenset[str]:
    low = text.lower()
    return frozenset(low[place : place + 3] for place in range(len(low) - 2))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())[:_LONGEST]


def _linear(train: Sequence[Question], view: View) -> _Way:
    """Logistic regression over which words and pairs of words there are, by Adam on all of it."""
    names = sorted(train[0].choices)
    examples, places = _features([view(one) for one in train])
    labels = np.array([names.index(one.targets) for one in train], dtype=np.float64)
    weights = fit(examples, places, labels)

    def answer(some: Sequence[Question]) -> list[str]:
        rows, columns = _features([view(one) for one in some])
        logits = _logits(rows, columns, weights, len(some))
        return [names[int(logit > 0)] for logit in logits]

    return answer


def fit(
    examples: Int64[np.ndarray, " N"],
    places: Int64[np.ndarray, " N"],
    labels: Float[np.ndarray, " E"],
) -> Float[np.ndarray, " W"]:
    """Weights of a logistic regression, the last of them the bias.

    Args:
        examples: which example a word is in.
        places: the word's place, the same for equal words.
        labels: 0 or 1.
    """
    used, columns = np.unique(places, return_inverse=True)
    weights, mean, square = (np.zeros(len(used) + 1) for _ in range(3))
    for step in range(1, _STEPS + 1):
        logits = _logits(examples, columns, weights, len(labels))
        wrong = (1 / (1 + np.exp(-np.clip(logits, -30, 30))) - labels) / len(labels)
        slope = np.bincount(columns, wrong[examples], len(used) + 1) + _DECAY * weights
        slope[-1] = wrong.sum()
        mean = 0.9 * mean + 0.1 * slope
        square = 0.99 * square + 0.01 * slope**2
        scale = np.sqrt(square / (1 - 0.99**step)) + 1e-8
        weights -= _RATE / math.sqrt(step) * (mean / (1 - 0.9**step)) / scale
    found = np.zeros(_PLACES + 1)
    found[used], found[-1] = weights[:-1], weights[-1]
    return found


def _logits(
    examples: Int64[np.ndarray, " N"],
    places: Int64[np.ndarray, " N"],
    weights: Float[np.ndarray, " W"],
    count: int,
) -> Float[np.ndarray, " E"]:
    logits: Float[np.ndarray, " E"] = np.bincount(examples, weights[places], count) + weights[-1]
    return logits


def _features(texts: Sequence[str]) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """The example and the place of each different word and pair of neighbours."""
    examples: list[int] = []
    places: list[int] = []
    for number, text in enumerate(texts):
        words = _words(text)
        keys = {*words, *map(" ".join, itertools.pairwise(words))}
        found = {zlib.crc32(key.encode()) % _PLACES for key in keys}
        places += sorted(found)
        examples += [number] * len(found)
    return np.array(examples, dtype=np.int64), np.array(places, dtype=np.int64)
