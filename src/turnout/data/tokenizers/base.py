"""What every tokenizer can do. Axes: V vocabulary, N tokens."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
from jaxtyping import Int64, Integer

from turnout.config.errors import UserError


class Tokenizer(ABC):
    """Text to vocabulary ids and back.

    Ids that stand for text have a length in bytes above zero; specials (padding, end of text,
    unknown, control tokens) and sentinels have length zero. The sentinels of span corruption are
    the last ids of the vocabulary and count downwards, as T5's.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of configuration that loads ``content``; see ``turnout.config.tokenizers``."""

    @property
    @abstractmethod
    def pad(self) -> int:
        """Padding, and what a decoder reads first."""

    @property
    @abstractmethod
    def eos(self) -> int:
        """End of text."""

    @property
    @abstractmethod
    def unk(self) -> int:
        """What the vocabulary has no id for."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Ids are 0 to ``vocab_size - 1``."""

    @property
    @abstractmethod
    def num_sentinels(self) -> int:
        """How many sentinels there are."""

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The file that the tokenizer was read from; empty for bytes."""

    @abstractmethod
    def encode_documents(
        self, texts: Sequence[bytes], threads: int = 1
    ) -> list[Integer[np.ndarray, " _"]]:
        """Ids of each text (valid UTF-8), without an end of text.

        The ids do not depend on ``threads``, nor on the other texts.
        """

    @abstractmethod
    def token_bytes(self, index: int) -> bytes:
        """The text that one id stands for; empty for specials and sentinels."""

    @abstractmethod
    def _text(self, ids: list[int]) -> str:
        """What a run of ids that stand for text reads."""

    @cached_property
    def byte_lengths(self) -> Int64[np.ndarray, " V"]:
        """Bytes of text that each id stands for."""
        lengths = [len(self.token_bytes(index)) for index in range(self.vocab_size)]
        return np.array(lengths, dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides which ids a text gets."""
        specials = f"{self.kind} {self.pad} {self.eos} {self.vocab_size} {self.num_sentinels}\n"
        return hashlib.sha256(specials.encode() + self.content).hexdigest()

    def encode(self, text: bytes | str) -> list[int]:
        """Ids of a text, without an end of text.

        Bytes that a command line could not decode are taken as they were typed.
        """
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        ids: list[int] = self.encode_documents([raw])[0].tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD, padding and ends vanish.

        Sentinel i reads ``<extra_id_i>``, as T5's vocabulary names it.

        Raises:
            UserError: an id outside the vocabulary.
        """
        parts: list[str] = []
        for is_text, run in groupby(ids, self.is_text):
            index = list(run)
            parts += [self._text(index)] if is_text else map(self._special, index)
        return "".join(parts)

    def is_text(self, index: int) -> bool:
        """Whether the id stands for text.

        Raises:
            UserError: an id outside the vocabulary.
        """
        if not 0 <= index < self.vocab_size:
            raise UserError(
                f"id {index}: the {self.kind} vocabulary has ids 0 to {self.vocab_size - 1}"
            )
        return bool(self.byte_lengths[index])

    def sentinel(self, index: int) -> int:
        """Id of sentinel ``index``: the last id of the vocabulary, the one before it, ..

        Raises:
            UserError: there is no such sentinel.
        """
        if not 0 <= index < self.num_sentinels:
            raise UserError(
                f"sentinel {index}: the {self.kind} vocabulary has {self.num_sentinels} sentinels"
                + (f", 0 to {self.num_sentinels - 1}" if self.num_sentinels else "")
            )
        return self.vocab_size - 1 - index

    def _special(self, index: int) -> str:
        number = self.vocab_size - 1 - index
        if number < self.num_sentinels:
            return f"<extra_id_{number}>"
        return "\ufffd" if index == self.unk else ""
