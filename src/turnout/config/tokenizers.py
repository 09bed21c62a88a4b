"""How text becomes vocabulary ids: bytes, a vocabulary from a file, or one learnt from the text."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from turnout.config.errors import check_words, require


@dataclass(frozen=True)
class BytesConfig:
    """One id a byte: 384 ids, 125 of them sentinels."""

    kind: ClassVar[str] = "bytes"


@dataclass(frozen=True)
class SentencePieceConfig:
    """A SentencePiece ``.model`` file.

    ``sentinels`` are added above a vocabulary that has no ``<extra_id_0>`` of its own.
    """

    kind: ClassVar[str] = "sentencepiece"
    path: str
    sentinels: int = 100

    def __post_init__(self) -> None:
        _check(self.path, self.sentinels)


@dataclass(frozen=True)
class TokenizerJsonConfig:
    """A ``tokenizer.json`` of the Hugging Face library ``tokenizers``.

    ``pad`` and ``eos`` name its tokens; where they are empty the usual names are looked for, and a
    vocabulary without any gets one added above it. ``sentinels`` as in ``SentencePieceConfig``.
    """

    kind: ClassVar[str] = "tokenizer_json"
    path: str
    sentinels: int = 100
    pad: str = ""
    eos: str = ""

    def __post_init__(self) -> None:
        _check(self.path, self.sentinels)


@dataclass(frozen=True)
class TrainedConfig:
    """SentencePiece learnt from the training side of the text; it loses nothing (byte fallback).

    ``vocab_size`` counts everything: specials, bytes, pieces and sentinels. ``bpe`` is learnt in
    seconds, ``unigram`` in minutes.
    """

    kind: ClassVar[str] = "trained"
    vocab_size: int = 8192
    model: Literal["bpe", "unigram"] = "bpe"
    sentinels: int = 100

    def __post_init__(self) -> None:
        check_words(self, "data.tokenizer")
        _check("trained", self.sentinels)
        least = 3 + 256 + self.sentinels + 1
        require(
            self.vocab_size >= least,
            "data.tokenizer.vocab_size",
            self.vocab_size,
            f"at least {least}: 3 specials, 256 bytes, {self.sentinels} sentinels and a piece",
        )


TokenizerConfig = BytesConfig | SentencePieceConfig | TokenizerJsonConfig | TrainedConfig


def _check(path: str, sentinels: int) -> None:
    require(bool(path), "data.tokenizer.path", path, "the path of a file")
    require(0 <= sentinels <= 1000, "data.tokenizer.sentinels", sentinels, "in 0 .. 1000")
