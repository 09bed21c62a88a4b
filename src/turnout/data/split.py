"""Which documents are trained on and which are held out. Axes: K documents, K1 one more."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from turnout.config.errors import UserError
from turnout.data.shards.text import Text


@dataclass(frozen=True)
class Split:
    """Two sides that share no document.

    Attributes:
        bounds: where each piece begins in the text, and the end of the last; the documents, or
            the two parts of a document that stands alone.
        held_out: which pieces are held out.
        note: what a reader should know, or empty.
    """

    bounds: Int64[np.ndarray, " K1"]
    held_out: Bool[np.ndarray, " K"]
    note: str = ""


def split(text: Text, validation_share: float) -> Split:
    """Hold out whole documents, about ``validation_share`` of the bytes.

    Documents are visited in the order of the hash of their contents, so the sides do not depend
    on the order of the files; a document is held out when that brings the held-out bytes nearer
    to the share. One document alone is cut at a line break, the end being held out.

    Raises:
        UserError: less than two bytes of text.
    """
    if text.num_documents < 2:
        at = _cut(text.piece(0, text.num_bytes), validation_share)
        note = f"one document: its last {text.num_bytes - at:,} bytes are held out"
        return Split(np.array([0, at, text.num_bytes]), np.array([False, True]), note)
    sizes = np.diff(text.starts)
    return Split(np.asarray(text.starts), choose(sizes, text.digests, validation_share))


def choose(
    sizes: Int64[np.ndarray, " K"], digests: UInt8[np.ndarray, "K 32"], share: float
) -> Bool[np.ndarray, " K"]:
    """Which of at least two documents are held out: one at least, and not all."""
    order = np.lexsort(np.ascontiguousarray(digests).view(">u8").T[::-1])
    missing = share * int(sizes.sum())
    smallest = int(sizes.min())
    chosen = np.zeros(len(sizes), dtype=bool)
    for document in order.tolist():
        if 2 * missing <= smallest:
            break
        if sizes[document] < 2 * missing:
            chosen[document] = True
            missing -= int(sizes[document])
    if not chosen.any():
        chosen[order[np.argmin(sizes[order])]] = True
    if chosen.all():
        chosen[order[-1]] = False
    return chosen


def _cut(text: bytes, share: float) -> int:
    """Where a document is cut in two: a line break near the share, or between characters."""
    if len(text) < 2:
        raise UserError(
            f"data.paths: {len(text)} bytes of text are too short to train on; give more text"
        )
    at = min(max(round(len(text) * (1 - share)), 1), len(text) - 1)
    # A line break within half a share of the aim, or the nearest start of a character.
    reach = max(1, round(len(text) * min(share, 1 - share) / 2))
    line = text.rfind(b"\n", max(at - reach, 0), at)
    if 0 < line + 1 < len(text):
        at = line + 1
    while at > 1 and text[at] & 0xC0 == 0x80:
        at -= 1
    return at
