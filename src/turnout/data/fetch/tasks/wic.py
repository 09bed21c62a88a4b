"""Word in context: does a word mean the same in two sentences?

Built as the set of 1808.09121 was, from WordNet's example sentences: positives are two sentences
of one synset, negatives of two synsets that are not neighbours (no pointer between them, no
hypernym in common, not of the same lexicographer's file). Words are split, and so are sentences.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from turnout.data.fetch.tasks.questions import (
    TEST,
    TRAIN,
    VALIDATION,
    YES_NO,
    Built,
    Question,
    Sources,
    ask,
    generator,
    shuffled,
    split_of,
)
from turnout.data.fetch.tasks.wordnet import (
    HYPERNYM,
    Synset,
    forms,
    irregular,
    open_examples,
    synsets,
)

PREFIX = "same sense?"
_PARTS = {"n": "noun", "v": "verb"}
_MOST = 4  # pairs of a word and answer, so that "break" and "make" are not half of the set
_SHORTEST = 3
_WORD = re.compile(r"[a-z]+")
_PLAIN = re.compile(r"[a-z]{2,}")


@dataclass(frozen=True)
class _Pair:
    word: str
    part: str
    first: str
    second: str
    same: bool


def wic(sources: Sources, seed: int) -> Built:
    """Pairs of sentences, ``yes`` and ``no`` equally often in every split and part of speech.

    Raises:
        ValueError: the files are damaged.
    """
    files = sources["wordnet"]
    senses = synsets(files, "noun", "verb")
    parts = [_pairs(senses, part, irregular(files, _PARTS[part]), seed) for part in _PARTS]
    found = _different([pair for part in parts for pair in part])
    readable = {example for sense in senses for example in open_examples(sense, seed)}
    taken: dict[str, str] = {}
    splits: dict[str, list[Question]] = {}
    for split in (TEST, VALIDATION, TRAIN):
        fresh = [
            pair
            for pair in found
            if split_of(pair.word, seed) == split
            and not any(taken.get(text, split) != split for text in (pair.first, pair.second))
            and (split == TRAIN or not {pair.first, pair.second} & readable)
        ]
        kept = [pair for part in _PARTS for pair in _balanced(fresh, part, seed)]
        taken |= {text: split for pair in kept for text in (pair.first, pair.second)}
        splits[split] = [_question(pair) for pair in shuffled(kept, generator(seed, "wic", split))]
    notes = {
        "sentences": len(taken),
        "left_out_of_glosses": "sentences of synsets with a word of validation or test",
    }
    return Built({split: splits[split] for split in (TRAIN, VALIDATION, TEST)}, notes)


def _different(found: Sequence[_Pair]) -> list[_Pair]:
    """Two sentences with a word once, and not at all where they are told both answers."""
    first: dict[tuple[str, frozenset[str]], _Pair] = {}
    answers: dict[tuple[str, frozenset[str]], set[bool]] = {}
    for pair in found:
        key = pair.word, frozenset({pair.first, pair.second})
        first.setdefault(key, pair)
        answers.setdefault(key, set()).add(pair.same)
    return [pair for key, pair in first.items() if len(answers[key]) == 1]


def overlap(question: Question) -> str:
    """How many words the sentences share, for a baseline that reads nothing else."""
    first, _, second = question.inputs.partition(" second: ")
    words = set(_WORD.findall(second.lower()))
    return f"shared{len(words & set(_WORD.findall(first.partition(' first: ')[2].lower())))}"


def _pairs(
    senses: Sequence[Synset], part: str, odd: Mapping[str, frozenset[str]], seed: int
) -> list[_Pair]:
    """All pairs that are kept of every word, a few of each answer."""
    uses: dict[str, list[tuple[Synset, str]]] = {}
    for sense in senses:
        if sense.part_of_speech != part:
            continue
        for word in sense.words:
            if not _PLAIN.fullmatch(word):
                continue
            known = forms(word, part) | odd.get(word, frozenset())
            for text in sense.examples:
                words = _WORD.findall(text.lower())
                if len(words) >= _SHORTEST and known & set(words):
                    uses.setdefault(word, []).append((sense, text))
    return [pair for word in sorted(uses) for pair in _of_word(word, part, uses[word], seed)]


def _of_word(
    word: str, part: str, uses: Sequence[tuple[Synset, str]], seed: int
) -> Iterable[_Pair]:
    random_ = generator(seed, "wic", part, word)
    left = {True: _MOST, False: _MOST}
    for (sense, first), (other, second) in shuffled(combinations(uses, 2), random_):
        same = sense.key == other.key
        if first == second or not left[same] or (not same and _near(sense, other)):
            continue
        left[same] -= 1
        if random_.random() < 0.5:
            first, second = second, first
        yield _Pair(word, part, first, second, same)


def _near(one: Synset, other: Synset) -> bool:
    """Senses too close for anybody to tell apart."""
    if one.lexicographer == other.lexicographer:
        return True
    linked = {key for _, key in one.pointers} | {key for _, key in other.pointers}
    parents = set(one.to(HYPERNYM)) & set(other.to(HYPERNYM))
    return bool(parents or linked & {one.key, other.key})


def _balanced(found: Sequence[_Pair], part: str, seed: int) -> list[_Pair]:
    """As many of either answer: of each word first, then of what remains of all words."""
    words: dict[str, dict[bool, list[_Pair]]] = {}
    for pair in found:
        if pair.part == part:
            words.setdefault(pair.word, {True: [], False: []})[pair.same].append(pair)
    kept: list[_Pair] = []
    rest: dict[bool, list[_Pair]] = {True: [], False: []}
    for answers in words.values():
        both = min(map(len, answers.values()))
        for same, some in answers.items():
            kept += some[:both]
            rest[same] += some[both:]
    both = min(map(len, rest.values()))
    for same, some in rest.items():
        kept += shuffled(some, generator(seed, "wic", part, str(same)))[:both]
    return kept


def _question(pair: _Pair) -> Question:
    inputs = f"{PREFIX} word: {pair.word} first: {pair.first} second: {pair.second}"
    return ask(inputs, YES_NO, YES_NO[not pair.same], _PARTS[pair.part], pair.word)
