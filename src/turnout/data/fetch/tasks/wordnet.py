"""WordNet's database: synsets, what they point to, and the forms of words.

The format is that of wndb(5WN): ``offset lex type w_cnt word lex_id.. p_cnt pointer.. | gloss``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from turnout.data.fetch.tasks.questions import Files, split_of

HYPERNYM, INSTANCE, PART_OF = "@", "@i", "#p"

_EXAMPLES = re.compile(r';\s*(?=")')
_QUOTED = re.compile(r'"([^"]+)"')
_MARKER = re.compile(r"\((?:a|p|ip)\)$")
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Synset:
    """A sense with its words.

    Attributes:
        key: part of speech and offset, as ``n02084071``.
        lexicographer: the number of its file: 5 animals, 6 artefacts, 18 people, ..
        words: with blanks, in WordNet's order.
        pointers: relation and key of the other synset.
        definition: the gloss without examples.
        examples: its sentences.
    """

    key: str
    lexicographer: int
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]
    definition: str
    examples: tuple[str, ...]

    @property
    def part_of_speech(self) -> str:
        """``n``, ``v``, ``a`` or ``r``."""
        return self.key[0]

    def to(self, relation: str) -> tuple[str, ...]:
        """Keys of the synsets that this one points to."""
        return tuple(key for symbol, key in self.pointers if symbol == relation)


def synsets(files: Files, *parts: str) -> list[Synset]:
    """The synsets of ``data.noun`` and so on, of the ``parts`` that are named.

    Raises:
        ValueError: a file is missing, cut or damaged.
    """
    found: list[Synset] = []
    by_name = {PurePosixPath(name).name: raw for name, raw in files.items()}
    for part in parts:
        raw = by_name.get(f"data.{part}")
        if raw is None:
            raise ValueError(f"data.{part} is missing")
        found += parse(f"data.{part}", raw.decode("utf-8", "replace"))
    return found


def parse(name: str, text: str) -> Iterator[Synset]:
    """The synsets of one file.

    Raises:
        ValueError: a line is no synset.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("  ") or not line.strip():
            continue  # the licence
        try:
            yield _synset(line)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{name} line {number} is no synset") from error


def _synset(line: str) -> Synset:
    fields, bar, gloss = line.partition(" | ")
    columns = fields.split()
    if not bar or len(columns[0]) != 8 or not columns[0].isdigit():
        raise ValueError(line[:40])
    count = int(columns[3], 16)
    start = 5 + 2 * count
    pointers = columns[start : start + 4 * int(columns[start - 1])]
    if count < 1 or len(pointers) != 4 * int(columns[start - 1]):
        raise ValueError(line[:40])
    definition, *examples = _EXAMPLES.split(gloss.strip())
    quoted = (_QUOTED.match(example) for example in examples)
    return Synset(
        _key(columns[2], columns[0]),
        int(columns[1]),
        tuple(_MARKER.sub("", word).replace("_", " ") for word in columns[4 : start - 1 : 2]),
        tuple(
            (symbol, _key(kind, offset))
            for symbol, offset, kind in zip(
                pointers[::4], pointers[1::4], pointers[2::4], strict=True
            )
        ),
        definition.strip().rstrip(";"),
        tuple(match[1].strip() for match in quoted if match),
    )


def _key(kind: str, offset: str) -> str:
    """Satellites are adjectives too."""
    return f"{'a' if kind == 's' else kind}{offset}"


def above(synset: Synset, relation: str, by_key: Mapping[str, Synset]) -> Iterator[str]:
    """Keys of all that a synset points to by ``relation``, and that these do, nearest first."""
    seen: set[str] = set()
    level = [synset.key]
    while level:
        found = [key for one in level for key in by_key[one].to(relation) if key in by_key]
        level = [key for key in dict.fromkeys(found) if key not in seen]
        seen.update(level)
        yield from level


def irregular(files: Files, part: str) -> Mapping[str, frozenset[str]]:
    """Words and their irregular forms, from ``noun.exc`` or ``verb.exc``; none where it is not."""
    found: dict[str, set[str]] = {}
    for name, raw in files.items():
        if PurePosixPath(name).name == f"{part}.exc":
            for line in raw.decode("utf-8", "replace").splitlines():
                form, *words = line.split()
                for word in words:
                    found.setdefault(word.replace("_", " "), set()).add(form.replace("_", " "))
    return {word: frozenset(forms) for word, forms in found.items()}


def forms(word: str, part_of_speech: str) -> frozenset[str]:
    """The regular forms of a noun or verb, in small letters."""
    word = word.lower()
    plural = {f"{word}s", f"{word}es"}
    stem = word
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        stem = f"{word[:-1]}i"
        plural = {f"{stem}es"}
    if part_of_speech == "n":
        return frozenset({word, *plural})
    past = {f"{stem}ed", f"{word}ing"}
    if word.endswith("e"):
        past = {f"{word}d", f"{word[:-1]}ing"}
    elif word[-1:] not in "aeiouwxy" and word[-2:-1] in _VOWELS:
        past |= {f"{word}{word[-1]}ed", f"{word}{word[-1]}ing"}
    return frozenset({word, *plural, *past})


def open_examples(synset: Synset, seed: int) -> tuple[str, ...]:
    """The sentences that a text to pre-train on may hold: those of synsets whose nouns or verbs
    are all words that word-in-context trains on."""
    held_out = synset.part_of_speech in "nv" and any(
        split_of(word, seed) != "train" for word in synset.words
    )
    return () if held_out else synset.examples
