"""Questions with choices, how they are split, and how true ones are paired into false ones."""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

Files = Mapping[str, bytes]
"""Contents by member name, of one package."""
Sources = Mapping[str, Files]
"""The files of every source that can be had, by the source's name."""

TRAIN, VALIDATION, TEST, MEMORY = "train", "validation", "test", "memory"
SPLITS = (TRAIN, VALIDATION, TEST)
HELD_OUT_SHARE = 0.1
SEED = 0
"""Of every set that is fetched; the corpus ``glosses`` leaves out what ``wic`` tests by it."""
YES_NO = ("yes", "no")

_APOSTROPHES = re.compile(r"['`\u00b4\u2018\u2019\u02bb\u02bc]")
_WORD = re.compile(r"[^\W_]+")

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One example, and one line of a file.

    Attributes:
        inputs: what is asked, behind the task's prefix.
        targets: the right answer, ``choices[answer]``.
        choices: different strings of the same kind.
        answer: the index of the right one.
        relation: what is asked for, to tell scores apart.
        entity: what it is asked of; the splits share none.
        references: all right answers, of which ``targets`` is the first.
    """

    inputs: str
    targets: str
    choices: tuple[str, ...]
    answer: int
    relation: str
    entity: str
    references: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The question as JSON, with its newline."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


View = Callable[[Question], str]
"""The part of a question that a baseline reads."""


@dataclass(frozen=True)
class Built:
    """What a builder made.

    Attributes:
        splits: questions by the name of their file.
        notes: what the manifest is to say of them.
    """

    splits: Mapping[str, Sequence[Question]]
    notes: Mapping[str, object] = field(default_factory=dict)


def ask(
    inputs: str,
    choices: Sequence[str],
    right: str,
    relation: str,
    entity: str,
    also: Iterable[str] = (),
) -> Question:
    """A question of which ``right`` is the right one of ``choices``, and ``also`` would be."""
    place, references = list(choices).index(right), (right, *also)
    return Question(inputs, right, tuple(choices), place, relation, entity, references)


def words_of(name: str) -> list[str]:
    """Words in small letters, without accents, punctuation and apostrophes."""
    plain = unicodedata.normalize("NFKD", _APOSTROPHES.sub("", name.casefold()))
    return _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))


def canonical(name: str) -> str:
    """The same for ``Greek, Modern`` and ``Modern Greek``; never empty where ``name`` is not."""
    return " ".join(sorted(words_of(name))) or name.casefold()


def split_of(entity: str, seed: int) -> str:
    """Where questions of an entity belong, by its hash: the same in every task of a seed."""
    digest = hashlib.sha256(f"{seed}:{entity.casefold()}".encode(errors="replace")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < HELD_OUT_SHARE:
        return TEST
    return VALIDATION if place < 2 * HELD_OUT_SHARE else TRAIN


def split_of_name(name: str, seed: int) -> str:
    """``split_of`` for a name, however it is punctuated and its words are ordered."""
    return split_of(canonical(name), seed)


def generator(seed: int, *names: str) -> random.Random:
    """Randomness of its own for every purpose, so that one more question moves no other."""
    return random.Random(":".join((str(seed), *names)))


def shuffled(items: Iterable[T], random_: random.Random) -> list[T]:
    """The items in a seeded order."""
    found = list(items)
    random_.shuffle(found)
    return found


def pairs(items: Iterable[T], clash: Callable[[T, T], bool], most: int) -> list[tuple[T, T]]:
    """Up to ``most`` pairs of neighbours that do not ``clash``, each item in one at most.

    Where ``(a, b)`` and ``(c, d)`` are true, ``(a, d)`` and ``(c, b)`` are then false, and every
    part occurs as often in true as in false: no part by itself tells which is which.
    """
    waiting: list[T] = []
    found: list[tuple[T, T]] = []
    for item in items:
        if len(found) == most:
            break
        partner = next((one for one in waiting if not clash(one, item)), None)
        if partner is None:
            waiting.append(item)
            continue
        waiting.remove(partner)
        found.append((partner, item))
    return found


def level(counts: Sequence[int], total: int, most: int) -> int:
    """The cap, at most ``most``, under which the ``counts`` sum up to ``total`` or just below."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(count, middle) for count in counts) <= total:
            low = middle
        else:
            high = middle - 1
    return low
