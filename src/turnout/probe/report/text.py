"""Text of others, made fit to be shown: control characters visible, never too long."""

import unicodedata
from typing import Final

MOST: Final = 4000

# Joiners shape words of several scripts and emoji, and change no direction.
_JOINERS: Final = "\u200c\u200d"
_SPACES: Final = frozenset({"Zs"})


def shown(text: str, most: int = MOST) -> str:
    r"""``text`` with line feeds and tabs kept and every other unprintable character escaped.

    Directional overrides read ``\u202e``, a stray half of a pair ``\ud800``. What is longer than
    ``most`` characters is cut, and says so.
    """
    cut = text[:most]
    safe = "".join(map(_one, cut))
    if len(text) <= most:
        return safe
    return f"{safe} … ({len(text):,} characters, the first {most:,} are shown)"


def line(text: str, most: int = 200) -> str:
    """The same for one line: breaks and tabs are escaped too."""
    return shown(text, most).replace("\n", "\\n").replace("\t", "\\t")


def _one(character: str) -> str:
    if character.isprintable() or character in "\n\t" or character in _JOINERS:
        return character
    if unicodedata.category(character) in _SPACES:
        return character
    return ascii(character)[1:-1]
