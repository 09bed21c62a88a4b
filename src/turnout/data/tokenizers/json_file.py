"""Vocabularies of the Hugging Face library ``tokenizers``: one ``tokenizer.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer

from turnout.config.errors import UserError, nearest
from turnout.data.tokenizers.base import Tokenizer
from turnout.data.tokenizers.sentinels import Numbering, counted

_PAD = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")
_EOS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[EOS]", "[SEP]")
_UNK = ("<unk>", "[UNK]", "<|unk|>")
_SPACE = "\u2581"


@dataclass(frozen=True)
class JsonTokenizer(Tokenizer):
    """A ``tokenizer.json``; what it lacks of padding, end, unknown and sentinels is put above it.

    Its special tokens are never read from a text: ``</s>`` in a document stays these characters.
    ``pad_name`` and ``eos_name`` are tokens of it, or empty to look for the usual names.
    """

    file: bytes
    sentinels: int
    pad_name: str = ""
    eos_name: str = ""
    kind: ClassVar[str] = "tokenizer_json"

    @cached_property
    def _library(self) -> Any:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise UserError(
                "data.tokenizer: the library tokenizers is not installed; pip install tokenizers"
            ) from error
        try:
            library = Library.from_str(self.file.decode())
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"not a tokenizer.json ({str(error)[:60]})") from error
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = True
        return library

    @cached_property
    def _size(self) -> int:
        return 1 + max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def _specials(self) -> dict[str, int]:
        """Ids of padding, end and unknown; those that the file lacks lie above its vocabulary."""
        names = {
            "pad": self._named("pad", self.pad_name) or _PAD,
            "eos": self._named("eos", self.eos_name) or _EOS,
            "unk": _UNK,
        }
        found: dict[str, int] = {}
        above = self._size
        for special, tokens in names.items():
            ids = map(self._library.token_to_id, tokens)
            found[special] = next((index for index in ids if index is not None), above)
            above += found[special] == above
        return found

    def _named(self, field: str, name: str) -> tuple[str, ...]:
        if not name:
            return ()
        if self._library.token_to_id(name) is None:
            known = [token.content for token in self._library.get_added_tokens_decoder().values()]
            raise UserError(
                f"data.tokenizer.{field} = {name!r}: no such token; {nearest(name, known)}"
            )
        return (name,)

    @property
    def pad(self) -> int:
        """See ``Tokenizer.pad``."""
        return self._specials["pad"]

    @property
    def eos(self) -> int:
        """See ``Tokenizer.eos``."""
        return self._specials["eos"]

    @property
    def unk(self) -> int:
        """See ``Tokenizer.unk``."""
        return self._specials["unk"]

    @cached_property
    def _numbering(self) -> Numbering:
        own = counted(self._library.token_to_id, self._size, -1)
        return Numbering(self._size, self._specials, own, self.sentinels)

    @cached_property
    def vocab_size(self) -> int:
        """See ``Tokenizer.vocab_size``; holes in the file's numbering count."""
        return self._numbering.vocab_size

    @property
    def num_sentinels(self) -> int:
        """See ``Tokenizer.num_sentinels``."""
        return self._numbering.num_sentinels

    @property
    def content(self) -> bytes:
        """See ``Tokenizer.content``: the ``tokenizer.json`` file."""
        return self.file

    def token_bytes(self, index: int) -> bytes:
        """See ``Tokenizer.token_bytes``, read off the token by the kind of the file's decoder."""
        token = self._library.id_to_token(index)
        above = index >= self.vocab_size - self.num_sentinels
        if above or token is None or index in (self.pad, self.eos, self.unk):
            return b""
        added = self._added.get(index)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        return _bytes(str(token), self._style)

    @cached_property
    def _added(self) -> Any:
        return self._library.get_added_tokens_decoder()

    @cached_property
    def _style(self) -> str:
        """How tokens write bytes: ``bytes`` (a character each), ``spaces``, or ``plain``."""
        decoder = json.loads(self.file).get("decoder")
        parts = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
        kinds = {part.get("type") for part in parts}
        if "ByteLevel" in kinds:
            return "bytes"
        return "spaces" if kinds & {"Metaspace", "ByteFallback"} else "plain"

    def encode_documents(
        self, texts: Sequence[bytes], threads: int = 1
    ) -> list[Integer[np.ndarray, " _"]]:
        """See ``Tokenizer.encode_documents``; the library has threads of its own."""
        decoded = [text.decode(errors="replace") for text in texts]
        encoded = self._library.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(each.ids, dtype=np.uint32) for each in encoded]

    def _text(self, ids: list[int]) -> str:
        return str(self._library.decode(ids, skip_special_tokens=False))


def _byte_characters() -> dict[str, int]:
    """The printable characters that byte-level vocabularies write bytes with: printable Latin-1
    bytes as they are, the others from U+0100 on, in order."""
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in same)
    table = {chr(byte): byte for byte in same}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _bytes(token: str, style: str) -> bytes:
    if style == "bytes":
        return bytes(_BYTE_OF[character] for character in token if character in _BYTE_OF)
    if style == "plain":
        return token.removeprefix("##").encode()
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_SPACE, " ").encode()
