"""Kinds of characters in text, and text that is safe to print.

The kinds are a partition: every vocabulary id in its place in a row is of exactly one of them. An
id that stands for several bytes is of the kind of the first of them that is no space; blanks with
a line break among them are line breaks.
Axes: B batch, S sequence, V ids of the table.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from turnout.data.tokenizers import ByteTokenizer, Tokenizer


@dataclass(frozen=True)
class CharacterClass:
    """A kind of characters.

    Attributes:
        name: as pictures print it.
        definition: what exactly belongs to it.
        values: its bytes; empty for ids that are no bytes of text.
    """

    name: str
    definition: str
    values: tuple[int, ...]


def _class(name: str, definition: str, values: bytes) -> CharacterClass:
    return CharacterClass(name, definition, tuple(values))


_LOWER = bytes(range(ord("a"), ord("z") + 1))
_DIGITS = bytes(range(ord("0"), ord("9") + 1))
_CONTROL = bytes(b for b in (*range(32), 127) if b not in b"\t\n\f\r")

CLASSES: Final = (
    _class("indent", "spaces and tabs with nothing else between them and a line break", b" \t"),
    _class("space", "other spaces, tabs and form feeds", b" \t\f"),
    _class("line break", "line feed, carriage return", b"\n\r"),
    _class("a to z", "lower-case ASCII letters", _LOWER),
    _class("A to Z", "upper-case ASCII letters", _LOWER.upper()),
    _class("0 to 9", "ASCII digits", _DIGITS),
    _class("_ and .", "underscore and full stop", b"_."),
    _class("quotes", "' \" `", b"'\"`"),
    _class("brackets", "( ) [ ] { }", b"()[]{}"),
    _class("operators", "+ - * / % = < > & | ^ ~ @ !", b"+-*/%=<>&|^~@!"),
    _class("punctuation", ", : ; # ? $ \\", b",:;#?$\\"),
    _class(
        "other bytes",
        "bytes 128 to 255 (pieces of characters beyond ASCII) and control characters",
        bytes(range(128, 256)) + _CONTROL,
    ),
    _class("special", "ids that are no bytes: start or padding, end of text, sentinels", b""),
)
"""In the order in which pictures show them."""

INDENT, SPACE, LINE_BREAK = range(3)
SPECIAL = len(CLASSES) - 1


_ESCAPES: Final = {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}
BYTES: Final = ByteTokenizer()
_BLANK, _BREAKS = b" \t", b"\n\r"


def _class_of_byte() -> Int64[np.ndarray, " 256"]:
    """Class of each byte; indentation is not told from space here."""
    table = np.full(256, SPECIAL)
    for index, kind in enumerate(CLASSES):
        if index != INDENT:
            table[list(kind.values)] = index
    return table


_OF_BYTE = _class_of_byte()


@lru_cache(maxsize=4)
def _tables(tokenizer: Tokenizer) -> tuple[Int64[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
    """Class of each id, and whether it may be indentation."""
    texts = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
    classes = np.array([_class_of(text) for text in texts])
    return classes, np.array([bool(text) and not text.strip(_BLANK) for text in texts])


def _class_of(text: bytes) -> int:
    if not text:
        return SPECIAL
    shown = text.strip(_BLANK + _BREAKS)
    if not shown and any(byte in _BREAKS for byte in text):
        return LINE_BREAK
    return int(_OF_BYTE[(shown or text)[0]])


def classify(
    ids: Int64[np.ndarray, "B S"],
    mask: Bool[np.ndarray, "B S"],
    tokenizer: Tokenizer = BYTES,
) -> Int64[np.ndarray, "B S"]:
    """Index in ``CLASSES`` of each token.

    Whether a space is indentation depends on the tokens before it in its row; at the start of a
    row, where the line's beginning may be cut off, it counts as indentation only behind an id that
    begins or ends a text. Padding (``mask`` False) is of class special and ends a line.
    """
    of_id, may_indent = _tables(tokenizer)
    special = ~mask | (ids >= len(of_id))
    known = np.where(special, tokenizer.pad, ids)
    classes = np.where(special, SPECIAL, of_id[known])
    blank = may_indent[known] & ~special
    place = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    last = np.maximum.accumulate(np.where(blank, -1, place), axis=1)
    before = np.take_along_axis(classes, np.maximum(last, 0), axis=1)
    opens = (last >= 0) & ((before == LINE_BREAK) | _ends_a_text(ids, mask, last, tokenizer))
    return np.where(blank & opens, INDENT, classes)


def _ends_a_text(
    ids: Int64[np.ndarray, "B S"],
    mask: Bool[np.ndarray, "B S"],
    place: Int64[np.ndarray, "B S"],
    tokenizer: Tokenizer,
) -> Bool[np.ndarray, "B S"]:
    """Whether the token at ``place`` is padding, a start or an end of text; a sentinel is not."""
    edge = ~mask | (ids == tokenizer.pad) | (ids == tokenizer.eos)
    return np.take_along_axis(edge, np.maximum(place, 0), axis=1)


def visible(ids: tuple[int, ...], tokenizer: Tokenizer = BYTES) -> str:
    r"""Ids as printable ASCII: ``a``, ``\n``, ``\xff``, ``<start>``, ``<end>``, ``<blank 0>``.

    A backslash of the text is doubled, so that the reading is unambiguous up to ids in <>.
    """
    return "".join(_one(index, tokenizer) for index in ids)


def _one(index: int, tokenizer: Tokenizer) -> str:
    known = 0 <= index < tokenizer.vocab_size
    text = tokenizer.token_bytes(index) if known else b""
    if text:
        return "".join(map(_escaped, text))
    sentinel = tokenizer.vocab_size - 1 - index
    if 0 <= sentinel < tokenizer.num_sentinels:
        return f"<blank {sentinel}>"
    names = {tokenizer.unk: "<unknown>", tokenizer.eos: "<end>", tokenizer.pad: "<start>"}
    return names.get(index, f"<id {index}>")


def _escaped(byte: int) -> str:
    plain = chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
    return _ESCAPES.get(byte, plain)


def readable(ids: tuple[int, ...], tokenizer: Tokenizer = BYTES) -> str:
    r"""Ids as text for people: bytes that are UTF-8 decoded, others ``\xff``, special ids as names.

    Unlike ``visible`` it is not unambiguous, and holds whatever characters the text does.
    """
    parts = []
    for is_text, run in groupby(ids, tokenizer.is_text):
        if is_text:
            parts.append(
                b"".join(map(tokenizer.token_bytes, run)).decode(errors="backslashreplace")
            )
        else:
            parts.extend(_one(index, tokenizer) for index in run)
    return "".join(parts)


def printable(text: str, most: int = 60) -> str:
    """``text`` with control and formatting characters escaped, and not longer than ``most``."""
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"
