"""The tokens of one side of the split. Axes: N tokens, K documents, K1 one more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from turnout.data.shards.text import Text
from turnout.data.shards.tokens import Tokens


@dataclass(frozen=True)
class Side:
    """Some of the documents of ``tokens``, in order.

    Attributes:
        tokens: those of all documents.
        begins: where each document of this side begins among them.
        starts: where it begins among the tokens of this side, and the end of the last.
    """

    tokens: Tokens
    begins: Int64[np.ndarray, " K"]
    starts: Int64[np.ndarray, " K1"]

    @staticmethod
    def of(tokens: Tokens, documents: Int64[np.ndarray, " K"]) -> "Side":
        """The side that has these documents, by number."""
        begins = tokens.starts[documents]
        lengths = tokens.starts[documents + 1] - begins
        return Side(tokens, begins, np.append(0, np.cumsum(lengths)))

    @staticmethod
    def held(documents: Sequence[Integer[np.ndarray, " _"]]) -> "Side":
        """A side of documents held in memory."""
        return Side.of(Tokens.of(documents), np.arange(len(documents)))

    @property
    def num_documents(self) -> int:
        return len(self.begins)

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])

    def read(self, offset: Int64[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """The tokens at these offsets of the joined documents of this side; 0 if it has none."""
        if not self.num_tokens:
            return np.zeros_like(offset)
        document = np.searchsorted(self.starts, offset, side="right") - 1
        return self.tokens.read(self.begins[document] + offset - self.starts[document])

    def document(self, index: int) -> Integer[np.ndarray, " _"]:
        """All tokens of one document of this side."""
        begin = int(self.begins[index])
        return self.tokens.span(begin, begin + int(self.starts[index + 1] - self.starts[index]))


class SideText(Sequence[bytes]):
    """The documents of one side as bytes, read when they are asked for."""

    def __init__(
        self, text: Text, bounds: Int64[np.ndarray, " K1"], documents: Int64[np.ndarray, " K"]
    ) -> None:
        self._text = text
        self._documents = documents
        self._whole = np.array_equal(bounds, text.starts)
        self.begins = bounds[documents]
        self.ends = bounds[documents + 1]

    @staticmethod
    def held(documents: Sequence[bytes]) -> "SideText":
        """Documents held in memory."""
        bounds = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        content = np.frombuffer(b"".join(documents), np.uint8)
        digests = np.frombuffer(b"".join(map(_digest, documents)), np.uint8).reshape(-1, 32)
        text = Text(Path(), "", content, bounds, digests, 0, 0, {}, 0)
        return SideText(text, bounds, np.arange(len(documents)))

    def digests(self) -> UInt8[np.ndarray, "K 32"]:
        """SHA-256 of each document; read from the text where it is cut as this side is."""
        if self._whole:
            known: UInt8[np.ndarray, "K 32"] = self._text.digests[self._documents]
            return known
        return np.frombuffer(b"".join(map(_digest, self)), np.uint8).reshape(-1, 32)

    @property
    def num_bytes(self) -> int:
        """Bytes of all documents of this side."""
        return int((self.ends - self.begins).sum())

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...

    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        return self._text.piece(int(self.begins[index]), int(self.ends[index]))

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


def _digest(document: bytes) -> bytes:
    return sha256(document).digest()
