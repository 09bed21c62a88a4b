"""Sources that are nearly text: wrapped files, R's lazy-load data, WordNet, dictd dictionaries."""

import re
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from turnout.data.fetch.clean.text import decode, tidy, unwrap
from turnout.data.fetch.tasks.questions import SEED
from turnout.data.fetch.tasks.wordnet import open_examples, parse

_GROUP = 4000
_MAX_DICTIONARY = 256 * 2**20
_STRINGS, _STRING = 16, 9
_CHAPTER = re.compile(r"\n\n(?=(?:CHAPTER|Chapter) [0-9IVXL]+)")


def paragraphs(name: str, raw: bytes) -> str:
    """A text wrapped by hand."""
    return unwrap(tidy(decode(raw)))


def r_strings(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """The chapters of the novels in an R lazy-load database: each a character vector of lines.

    The file is a row of slices: four bytes for the inflated length, then a zlib stream that holds
    R's serialisation in XDR. Only version 3 and plain character vectors are read.
    """
    rest = raw
    while len(rest) > 4:
        limit = int.from_bytes(rest[:4], "big")
        inflate = zlib.decompressobj()
        data = inflate.decompress(rest[4:], limit + 1)
        if len(data) != limit or not inflate.eof:
            raise ValueError(f"{name}: a slice is not the size it declares")
        rest = inflate.unused_data
        lines = list(_character_vector(data))
        if lines:
            text = unwrap(tidy("\n".join(lines)))
            novel = text.partition("\n")[0].strip().title()
            for chapter in _CHAPTER.split(text):
                heading, _, _ = chapter.partition("\n")
                yield f"{novel}: {heading.strip()}", chapter


def _character_vector(data: bytes) -> Iterator[str]:
    """``X\\n``, version 3, two versions of R, the encoding's name, then the vector."""
    if data[:6] != b"X\n\x00\x00\x00\x03":
        return
    place = 18 + int.from_bytes(data[14:18], "big")
    if data[place + 3] != _STRINGS:
        return
    count = int.from_bytes(data[place + 4 : place + 8], "big")
    place += 8
    for _ in range(count):
        size = int.from_bytes(data[place + 4 : place + 8], "big", signed=True)
        if data[place + 3] != _STRING or len(data) < place + 8 + size:
            raise ValueError("a character vector holds something else")
        yield data[place + 8 : place + 8 + max(size, 0)].decode(errors="replace")
        place += 8 + max(size, 0)


def wordnet(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """``word, synonym: definition; "example"``, in groups of some 4,000 characters."""
    entries = []
    for line in raw.decode(errors="replace").splitlines():
        fields, bar, gloss = line.partition(" | ")
        columns = fields.split()
        if line.startswith("  ") or not bar or len(columns) < 5:
            continue
        if re.fullmatch(r"[0-9a-fA-F]+", columns[3]) is None:
            continue  # how many words follow
        words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
        shown = ", ".join(re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in words)
        entries.append((shown.partition(",")[0], f"{shown}: {gloss.strip()}"))
    yield from _grouped(PurePosixPath(name).name, entries, "\n")


def glosses(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """As ``wordnet``, without the sentences that the task word-in-context tests."""
    part = PurePosixPath(name).name
    entries = (
        (synset.words[0], f"{', '.join(synset.words)}: {'; '.join((synset.definition, *quoted))}")
        for synset in parse(part, raw.decode(errors="replace"))
        for quoted in [[f'"{example}"' for example in open_examples(synset, SEED)]]
    )
    yield from _grouped(part, entries, "\n")


def jargon(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """The Jargon File."""
    yield from _dictionary(name, raw, lambda entry: re.sub(r"\{([^{}]*)\}", r"\1", entry))


def devil(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """The Devil's Dictionary: its preface, and entries of one or more paragraphs and verse."""
    text = unwrap(tidy(_inflate(name, raw)))
    whole = text[text.index("PREFACE") :] if "PREFACE" in text else text
    entries = re.split(r"\n\n(?=[A-Z][A-Z' -]*, [a-z.]+ )", whole)
    yield from _grouped(
        "devil", ((entry.partition(",")[0][:60], entry) for entry in entries), "\n\n"
    )


def foldoc(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """The Free On-line Dictionary of Computing."""
    yield from _dictionary(name, raw, _foldoc)


def gcide(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    """Webster's dictionary of 1913 and its additions."""
    yield from _dictionary(name, raw, _gcide)


def _foldoc(entry: str) -> str:
    entry = re.sub(r"\{([^{}]*)\}", r"\1", entry).replace("%%%", "\n")
    return re.sub(r"^\s*\(\d{4}-\d\d-\d\d\)\s*$", "", entry, flags=re.MULTILINE)


_GCIDE_SOURCE = re.compile(
    r"\s*\[(?:(?:1913 Webster|Webster 1913|WordNet|PJC|RDB|MW10|Century Dict)[^\]]{0,30}"
    r"|[A-Z]{2,4}|[A-Z][A-Za-z. ]{0,20}\+ ?PJC)\]"
)
_GCIDE_SAID = re.compile(r" \\[^\\\n]{1,60}\\,?")
_GCIDE_ACCENT = re.compile(r"\[[=^:'`~\"u.|,-]{0,2}([A-Za-z]{1,2})[=^:'`~\".-]{0,2}\]")


def _gcide(entry: str) -> str:
    entry = _GCIDE_SAID.sub(",", _GCIDE_SOURCE.sub("", entry))
    entry = _GCIDE_ACCENT.sub(lambda found: found[1] if len(found[0]) > 3 else found[0], entry)
    return re.sub(r"\{([^{}]*)\}", r"\1", entry)


def _dictionary(name: str, raw: bytes, mend: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Entries of a dictd file: a line at the margin after an empty one, with indented lines below.

    Paragraphs without an indented line are the database's own account of itself.
    """
    found = re.split(r"\n\s*\n(?=\S)", tidy(_inflate(name, raw)))
    entries = (
        (re.split(r"[,\n\\]|  ", entry)[0].strip()[:60], unwrap(_dedent(mend(entry))))
        for entry in found
        if "\n " in entry and not entry.startswith("00-database")
    )
    yield from _grouped(PurePosixPath(name).name.removesuffix(".dict.dz"), entries, "\n\n")


def _inflate(name: str, raw: bytes) -> str:
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    data = inflate.decompress(raw, _MAX_DICTIONARY)
    if not inflate.eof:
        raise ValueError(f"{name}: not a whole dictionary, or more than {_MAX_DICTIONARY} bytes")
    return decode(data)


def _dedent(entry: str) -> str:
    """What is said of the word beside it, and what is below at the margin."""
    word, *body = entry.split("\n")
    while body and body[0].startswith(" ") and not body[0].startswith("   "):
        word += " " + body.pop(0).strip()
    return word + "\n" + textwrap.dedent("\n".join(body))


def _grouped(name: str, entries: Iterable[tuple[str, str]], gap: str) -> Iterator[tuple[str, str]]:
    """Neighbouring entries as one document, since most are shorter than a line."""
    group: list[str] = []
    first = ""
    for word, text in entries:
        if not text:
            continue
        first = first or word
        group.append(text)
        if sum(map(len, group)) >= _GROUP:
            yield f"{name}: {first}", gap.join(group)
            group, first = [], ""
    if group:
        yield f"{name}: {first}", gap.join(group)
