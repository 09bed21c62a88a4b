"""Which documents are trained on and which are held out."""

import hashlib
from dataclasses import dataclass

from turnout.config.errors import UserError


@dataclass(frozen=True)
class Split:
    """Two sides that share no document; ``note`` says what a reader should know, or is empty."""

    train: tuple[bytes, ...]
    validation: tuple[bytes, ...]
    note: str = ""

    @property
    def train_bytes(self) -> int:
        return sum(map(len, self.train))

    @property
    def validation_bytes(self) -> int:
        return sum(map(len, self.validation))


def split(texts: tuple[bytes, ...], validation_share: float) -> Split:
    """Hold out whole documents, about ``validation_share`` of the bytes.

    Documents are visited in the order of the hash of their contents, so the sides do not depend
    on the order of the files; a document is held out when that brings the held-out bytes nearer
    to the share. Copies of a document count as one and stay together. One document alone (or
    copies of one) is cut at a line break, the end being held out.

    Raises:
        UserError: less than two bytes of text.
    """
    copies: dict[bytes, int] = {}
    for text in texts:
        copies[text] = copies.get(text, 0) + 1
    if len(copies) < 2:
        return _cut(b"".join(copies), validation_share)
    held_out = _choose(
        {text: len(text) * number for text, number in copies.items()}, validation_share
    )
    return Split(
        train=tuple(text for text in texts if text not in held_out),
        validation=tuple(text for text in texts if text in held_out),
    )


def _choose(sizes: dict[bytes, int], share: float) -> set[bytes]:
    order = sorted(sizes, key=_digest)
    missing = share * sum(sizes.values())
    chosen: list[bytes] = []
    for text in order:
        if sizes[text] < 2 * missing:
            chosen.append(text)
            missing -= sizes[text]
    if not chosen:
        chosen = [min(order, key=sizes.__getitem__)]
    if len(chosen) == len(order):
        chosen.pop()
    return set(chosen)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _cut(text: bytes, share: float) -> Split:
    if len(text) < 2:
        raise UserError(
            f"data.paths: {len(text)} bytes of text are too short to train on; give more text"
        )
    at = min(max(round(len(text) * (1 - share)), 1), len(text) - 1)
    # A line break within half a share of the aim, or the nearest start of a character.
    reach = max(1, round(len(text) * min(share, 1 - share) / 2))
    line = text.rfind(b"\n", at - reach, at)
    if 0 < line + 1 < len(text):
        at = line + 1
    while at > 1 and text[at] & 0xC0 == 0x80:
        at -= 1
    return Split(
        (text[:at],),
        (text[at:],),
        f"one document: its last {len(text) - at:,} bytes are held out",
    )
