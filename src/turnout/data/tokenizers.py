"""Text to vocabulary ids and back."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
from jaxtyping import UInt16

from turnout.config.errors import UserError


@dataclass(frozen=True)
class ByteTokenizer:
    """One id a byte, laid out as T5's byte-level models have it (ByT5, 2105.13626).

    0 padding and the decoder's start, 1 end of text, 2 unknown, byte b is b + 3, and the ids from
    the last one downwards are the sentinels of span corruption: 384 ids, 125 of them sentinels.
    """

    pad: ClassVar[int] = 0
    eos: ClassVar[int] = 1
    unk: ClassVar[int] = 2
    first_byte: ClassVar[int] = 3
    vocab_size: ClassVar[int] = 384
    num_sentinels: ClassVar[int] = 384 - 3 - 256

    def sentinel(self, index: int) -> int:
        """Id of sentinel ``index``: 383, 382, ..

        Raises:
            UserError: there is no such sentinel.
        """
        if not 0 <= index < self.num_sentinels:
            raise UserError(
                f"sentinel {index}: the byte vocabulary has sentinels 0 to {self.num_sentinels - 1}"
            )
        return self.vocab_size - 1 - index

    def encode(self, text: bytes | str) -> list[int]:
        """Ids of the bytes (of the UTF-8 form of a string); no end of text is added.

        Bytes that a command line could not decode are taken as they were typed.
        """
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return [byte + self.first_byte for byte in raw]

    def encode_array(self, text: bytes) -> UInt16[np.ndarray, " N"]:
        """``encode`` for whole documents."""
        return np.frombuffer(text, dtype=np.uint8) + np.uint16(self.first_byte)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD, padding and ends vanish.

        Sentinel i reads ``<extra_id_i>``, as T5's vocabulary names it.

        Raises:
            UserError: an id outside the vocabulary.
        """
        parts = []
        for is_byte, run in groupby(ids, self.is_byte):
            if is_byte:
                raw = bytes(index - self.first_byte for index in run)
                parts.append(raw.decode(errors="replace"))
            else:
                parts.extend(self._special(index) for index in run)
        return "".join(parts)

    def is_byte(self, index: int) -> bool:
        """Whether the id stands for a byte of text."""
        return self.first_byte <= index < self.first_byte + 256

    def _special(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            raise UserError(f"id {index}: the byte vocabulary has ids 0 to {self.vocab_size - 1}")
        if index > self.unk:
            return f"<extra_id_{self.vocab_size - 1 - index}>"
        return "\ufffd" if index == self.unk else ""
