"""Facts from the quiz of the BSD games: lines of fields, which ``index`` names.

Fields are patterns: ``{..}`` may be left out, ``[a|b]`` is one of several, and ``a|b`` are answers
of equal right. The fullest reading of the first is shown.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from turnout.data.fetch.tasks.questions import Files
from turnout.data.fetch.tasks.relations import Fact

# Topic, subject's column, answer's column, relation; ``True`` where the subject is a country.
_ASKED = (
    *((topic, topic, "capital", "country-capital") for topic in ("africa", "america", "asia")),
    ("europe", "europe", "capital", "country-capital"),
    ("babies", "baby", "adult", "young"),
    ("collectives", "individuals", "collective", "group"),
    ("elements", "element", "symbol", "element-symbol"),
    ("elements", "element", "number", "element-number"),
    ("flowers", "flowers", "meaning", "flower"),
    ("latin", "latin", "english", "latin"),
    ("pres", "president", "successor", "president-successor"),
    ("sov", "sovereign", "successor", "sovereign-successor"),
    ("province", "province", "capital", "region-capital"),
    ("state", "state", "capital", "region-capital"),
    ("state", "state", "abbreviation", "state-abbreviation"),
    ("state", "state", "flower", "state-flower"),
    ("areas", "area-code", "state-region", "area-code"),
    ("sexes", "male", "female", "female"),
    ("posneg", "positive", "negative", "opposite"),
    ("murders", "victim", "killer", "killer"),
    ("poetry", "poem-line", "author", "poem-author"),
    ("bard", "shakespeare-lines", "work", "play"),
)
_SCENE = re.compile(r" [IVX]+-[ivx]+$")
_DEEPEST = 8
_COLON = "\0"


def quiz_facts(files: Files) -> Iterator[Fact]:
    """Facts of the topics that are of some use.

    Raises:
        ValueError: ``index`` is missing, or a pattern does not close.
    """
    texts = {PurePosixPath(name).name: raw for name, raw in files.items()}
    if "index" not in texts:
        raise ValueError("index is missing")
    columns = dict(_columns(_text(texts["index"])))
    for topic, subject, answer, relation in _ASKED:
        if topic in texts and topic in columns:
            yield from _facts(_text(texts[topic]), columns[topic], topic, subject, answer, relation)


def _text(raw: bytes) -> str:
    """Lines that end in a backslash go on; a colon behind one divides nothing."""
    return raw.decode("utf-8", "replace").replace("\\\n", "").replace("\\:", _COLON)


def _columns(index: str) -> Iterator[tuple[str, Mapping[str, int]]]:
    for line in index.splitlines():
        path, *names = line.split(":")
        topic = PurePosixPath(path).name
        found = {readings(name)[0].lower(): place for place, name in enumerate(names)}
        # The maps' first column is called by its inhabitants: ``Africa{n}``.
        yield (
            topic,
            {topic: 0, **found} if topic in ("africa", "america", "asia", "europe") else found,
        )


def _facts(
    text: str, columns: Mapping[str, int], topic: str, subject: str, answer: str, relation: str
) -> Iterator[Fact]:
    if subject not in columns or answer not in columns:
        return
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) <= max(columns[subject], columns[answer]):
            continue
        asked, right = (readings(fields[columns[name]]) for name in (subject, answer))
        if len(asked[0]) > 1 and right[0] and asked[0].casefold() != right[0].casefold():
            shown, *others = (_SCENE.sub("", one) for one in right)
            yield Fact(relation, asked[0], shown, asked[0], "bsdgames", frozenset(others), topic)


def readings(pattern: str) -> list[str]:
    """What a field may be, each in its fullest form.

    Raises:
        ValueError: a bracket that is not closed, or brackets too deep.
    """
    found, end = _alternatives(pattern, 0, "", 0)
    if end != len(pattern):
        raise ValueError(f"{pattern[:60]!r} closes what it did not open")
    return [" ".join(one.replace(_COLON, ":").split()) for one in found]


def _alternatives(pattern: str, place: int, close: str, depth: int) -> tuple[list[str], int]:
    """The alternatives up to ``close``, and the place behind them."""
    if depth > _DEEPEST:
        raise ValueError(f"{pattern[:60]!r} is nested too deep")
    found = [""]
    while place < len(pattern):
        sign = pattern[place]
        place += 1
        if sign == close:
            return found, place
        if sign in "]}":
            return found, place - 1
        if sign == "|":
            found.append("")
        elif sign in "[{":
            inner, place = _alternatives(pattern, place, "]" if sign == "[" else "}", depth + 1)
            found[-1] += inner[0]
        else:
            found[-1] += sign
    if close:
        raise ValueError(f"{pattern[:60]!r} does not close")
    return found, place
