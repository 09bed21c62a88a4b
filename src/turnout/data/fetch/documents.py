"""From members of a package to lines of JSON: cleaned, tidied, without repetition."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turnout.data.fetch.clean import CLEANERS
from turnout.data.fetch.clean.text import tidy
from turnout.data.fetch.corpora import Source

_REPEATABLE_BYTES = 64
_SHORTEST_BYTES = 64
# Words that running English cannot do without, and none of the corpora's other languages has two.
_ENGLISH = re.compile(r"\b(the|and|that|this|for|with|are|from)\b", re.IGNORECASE)
_ENGLISH_EVERY = 70


@dataclass
class Count:
    """Documents of a language, and the bytes of their text."""

    documents: int = 0
    bytes: int = 0


@dataclass
class Tally:
    """What became of a source.

    Attributes:
        languages: documents and bytes by language.
        repeated_bytes: paragraphs that occurred before in the source.
        foreign_bytes: lines left out because they are English in a source that is not.
        short: documents that were left out because nothing much remained.
    """

    languages: dict[str, Count] = field(default_factory=dict)
    repeated_bytes: int = 0
    foreign_bytes: int = 0
    short: int = 0


def write(
    source: Source,
    files: Iterable[tuple[str, bytes, str]],
    path: Path,
    known_lines: frozenset[bytes] = frozenset(),
) -> Tally:
    """Write the documents of ``files`` (name, contents, language) to ``path``, a line each.

    Returns:
        the tally; ``path`` is written in place, so give a name that is not yet trusted.
    """
    tally = Tally()
    seen: set[bytes] = set()
    names: dict[str, int] = {}
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for name, raw, language in files:
            for title, text in CLEANERS[source.cleaner](name, raw):
                kept = tidy(text)
                if language != "en":
                    kept = _without_english(kept, known_lines, tally)
                kept = _once(kept, seen, tally)
                size = len(kept.encode())
                if size < _SHORTEST_BYTES:
                    tally.short += 1
                    continue
                names[title] = names.get(title, 0) + 1
                unique = title if names[title] == 1 else f"{title} #{names[title]}"
                line = {"text": kept, "source": source.name, "language": language, "id": unique}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                count = tally.languages.setdefault(language, Count())
                count.documents += 1
                count.bytes += size
    return tally


def lines_of(path: Path) -> frozenset[bytes]:
    """Hashes of all lines of all documents in a file that ``write`` made."""
    with path.open(encoding="utf-8") as file:
        return frozenset(
            _hash(line) for row in file for line in _lines(json.loads(row)["text"]) if line
        )


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.split("\n"))


def _without_english(text: str, known: frozenset[bytes], tally: Tally) -> str:
    """Without the lines that the English source has too, or that read as English."""
    kept = []
    for line in text.split("\n"):
        bare = line.strip()
        if bare and (_hash(bare) in known or is_english(bare)):
            tally.foreign_bytes += len(line.encode()) + 1
        else:
            kept.append(line)
    return tidy("\n".join(kept))


def is_english(line: str) -> bool:
    """Two of English's commonest words, and one every 70 characters."""
    found = [word.lower() for word in _ENGLISH.findall(line)]
    return len(set(found)) > 1 and len(found) * _ENGLISH_EVERY >= len(line)


def _once(text: str, seen: set[bytes], tally: Tally) -> str:
    """Without paragraphs of some length that the source had before, letter by letter."""
    kept = []
    for paragraph in text.split("\n\n"):
        size = len(paragraph.encode())
        if size >= _REPEATABLE_BYTES:
            key = _hash(paragraph)
            if key in seen:
                tally.repeated_bytes += size + 2
                continue
            seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
