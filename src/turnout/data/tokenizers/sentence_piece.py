"""SentencePiece vocabularies, from a file or learnt (see ``trained``)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer

from turnout.config.errors import UserError
from turnout.data.tokenizers.base import Tokenizer
from turnout.data.tokenizers.cut import parts
from turnout.data.tokenizers.sentinels import Numbering, counted

SPACE = "\u2581"  # what stands for a space inside pieces
# Longer text is encoded in parts: the time of byte-pair encoding grows faster than its length.
_PART = 1 << 12


@dataclass(frozen=True)
class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; what it lacks of padding, end, unknown and sentinels is put above it.

    A model with byte fallback, identity normalisation and no dummy prefix, as ``trained`` makes
    them, loses nothing: the character that stands for spaces is itself written as its bytes.
    """

    model: bytes
    sentinels: int
    kind: ClassVar[str] = "sentencepiece"

    @cached_property
    def _pieces(self) -> Any:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise UserError(
                "data.tokenizer: SentencePiece is not installed; pip install sentencepiece"
            ) from error
        try:
            return SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise UserError("not a SentencePiece model") from error

    @cached_property
    def _added(self) -> dict[str, int]:
        """Ids above the model's pieces for the specials that it lacks."""
        own = {name: getattr(self._pieces, f"{name}_id")() for name in ("pad", "eos", "unk")}
        lacking = [name for name, index in own.items() if index < 0]
        return own | {name: self._size + place for place, name in enumerate(lacking)}

    @cached_property
    def _size(self) -> int:
        return int(self._pieces.get_piece_size())

    @cached_property
    def _numbering(self) -> Numbering:
        own = counted(self._pieces.piece_to_id, self._size, self._pieces.unk_id())
        return Numbering(self._size, self._added, own, self.sentinels)

    @property
    def pad(self) -> int:
        """See ``Tokenizer.pad``."""
        return self._added["pad"]

    @property
    def eos(self) -> int:
        """See ``Tokenizer.eos``."""
        return self._added["eos"]

    @property
    def unk(self) -> int:
        """See ``Tokenizer.unk``."""
        return self._added["unk"]

    @cached_property
    def vocab_size(self) -> int:
        """See ``Tokenizer.vocab_size``."""
        return self._numbering.vocab_size

    @property
    def num_sentinels(self) -> int:
        """See ``Tokenizer.num_sentinels``."""
        return self._numbering.num_sentinels

    @property
    def content(self) -> bytes:
        """See ``Tokenizer.content``: the ``.model`` file."""
        return self.model

    def token_bytes(self, index: int) -> bytes:
        """See ``Tokenizer.token_bytes``."""
        pieces = self._pieces
        above = index >= min(self._size, self.vocab_size - self.num_sentinels)
        if above or index in (self.pad, self.eos, self.unk):
            return b""
        piece = str(pieces.id_to_piece(index))
        if pieces.is_byte(index):
            return bytes([int(piece[1:-1], 16)])
        if pieces.is_control(index) or pieces.is_unknown(index) or pieces.is_unused(index):
            return b""
        return piece.replace(SPACE, " ").encode()

    def encode_documents(
        self, texts: Sequence[bytes], threads: int = 1
    ) -> list[Integer[np.ndarray, " _"]]:
        """See ``Tokenizer.encode_documents``.

        Texts above 4 KiB are encoded in parts that end behind a line break or before a space,
        unless the model puts a space of its own in front of what it encodes.
        """
        pieces = [list(self._parts(text)) for text in texts]
        flat = [part for document in pieces for part in document if part != SPACE]
        encoded = iter(self._pieces.encode(flat, num_threads=threads) if flat else ())
        return [
            np.fromiter(
                chain.from_iterable(
                    self._space if part == SPACE else next(encoded) for part in document
                ),
                dtype=np.uint32,
            )
            for document in pieces
        ]

    @cached_property
    def _space(self) -> list[int]:
        """The ids of the bytes of the character that stands for spaces; empty without them."""
        ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        return ids if all(map(self._pieces.is_byte, ids)) else []

    @cached_property
    def _prefixed(self) -> bool:
        return str(self._pieces.encode("a", out_type=str)[0]).startswith(SPACE)

    def _parts(self, text: bytes) -> Iterator[str]:
        """The text in pieces for the library, and ``SPACE`` alone where the text holds it."""
        space = SPACE.encode()
        for number, part in enumerate(text.split(space) if self._space else [text]):
            if number:
                yield SPACE
            size = len(part) if self._prefixed else _PART
            for each in parts(part, max(size, _PART)):
                yield each.decode(errors="replace").replace(SPACE, " ")

    def _text(self, ids: list[int]) -> str:
        return str(self._pieces.decode(ids))
