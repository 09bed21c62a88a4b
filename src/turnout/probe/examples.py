"""Places in held-out text where an expert served what is most typical of it.

Axes: B batch, S sequence, K choices, N assignments.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from turnout.data.tokenizers import Tokenizer
from turnout.probe.characters import BYTES, readable

BEFORE: Final = 40
AFTER: Final = 24

OTHER, SERVED, THIS = "", "served", "this"


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens as text; ``kind`` says whose they are.

    ``this`` is the token that the example is about, ``served`` went to the same expert, the empty
    string did not. The text is readable, not printable: escape it before showing it.
    """

    text: str
    kind: str


@dataclass(frozen=True)
class Example:
    """What was typical (as ``characters.visible`` has it), its lift, and one place it stood at."""

    typical: str
    lift: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Rows:
    """The tokens of a layer's rows and who served them; ``expert`` is -1 where nothing was kept."""

    ids: Int64[np.ndarray, "B S"]
    mask: Bool[np.ndarray, "B S"]
    expert: Int64[np.ndarray, "B S K"]
    tokenizer: Tokenizer = BYTES

    def around(self, expert: int, row: int, place: int) -> tuple[Piece, ...]:
        """Up to ``BEFORE`` tokens before a place, its own, and up to ``AFTER`` behind it."""
        first = max(place - BEFORE, 0)
        window = slice(first, place + AFTER + 1)
        real = self.mask[row, window]
        served = (self.expert[row, window] == expert).any(-1)
        kinds = [SERVED if each else OTHER for each in served.tolist()]
        kinds[place - first] = THIS
        tokens = [
            (kind, index)
            for kind, index, kept in zip(
                kinds, self.ids[row, window].tolist(), real.tolist(), strict=True
            )
            if kept
        ]
        return tuple(_pieces(tokens, self.tokenizer))


def _pieces(tokens: Iterable[tuple[str, int]], tokenizer: Tokenizer) -> Iterable[Piece]:
    for kind, run in groupby(tokens, lambda token: token[0]):
        yield Piece(readable(tuple(index for _, index in run), tokenizer), kind)
