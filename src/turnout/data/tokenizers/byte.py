"""The vocabulary of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Integer, UInt16

from turnout.data.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """One id a byte, laid out as T5's byte-level models have it (ByT5, 2105.13626).

    0 padding and the decoder's start, 1 end of text, 2 unknown, byte b is b + 3, and the ids from
    the last one downwards are the sentinels of span corruption: 384 ids, 125 of them sentinels.
    """

    kind: ClassVar[str] = "bytes"
    pad: ClassVar[int] = 0
    eos: ClassVar[int] = 1
    unk: ClassVar[int] = 2
    first_byte: ClassVar[int] = 3
    vocab_size: ClassVar[int] = 384
    num_sentinels: ClassVar[int] = 384 - 3 - 256
    content: ClassVar[bytes] = b""

    def encode_documents(
        self, texts: Sequence[bytes], threads: int = 1
    ) -> list[Integer[np.ndarray, " _"]]:
        """See ``Tokenizer.encode_documents``; bytes that are not UTF-8 are taken as they are."""
        return [self.encode_array(text) for text in texts]

    def encode_array(self, text: bytes) -> UInt16[np.ndarray, " N"]:
        """Ids of one text."""
        return np.frombuffer(text, dtype=np.uint8) + np.uint16(self.first_byte)

    def token_bytes(self, index: int) -> bytes:
        """See ``Tokenizer.token_bytes``."""
        return bytes([index - self.first_byte]) if self.is_byte(index) else b""

    def is_byte(self, index: int) -> bool:
        """Whether the id stands for a byte of text."""
        return self.first_byte <= index < self.first_byte + 256

    def _text(self, ids: list[int]) -> str:
        return bytes(index - self.first_byte for index in ids).decode(errors="replace")
