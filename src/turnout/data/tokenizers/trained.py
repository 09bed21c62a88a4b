"""A SentencePiece vocabulary learnt from text, such that no text is lost."""

import io
import re
from collections.abc import Iterable, Iterator

from turnout.config.errors import ConfigError, UserError
from turnout.config.tokenizers import TrainedConfig
from turnout.data.tokenizers.sentence_piece import SPACE, SentencePieceTokenizer

_LINE = 2000  # characters given to the trainer at once
_MOST_BYTES = 1 << 25


def learn(texts: Iterable[bytes], config: TrainedConfig) -> SentencePieceTokenizer:
    """The vocabulary of ``texts``: identity normalisation, byte fallback, no dummy prefix.

    0 is padding, 1 end of text, 2 unknown, 3 to 258 are the bytes. One thread, so that the same
    text gives the same vocabulary.

    Raises:
        UserError: sentencepiece is not installed, or the text is too small for the vocabulary.
    """
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError as error:
        raise UserError(
            "data.tokenizer: SentencePiece is not installed; pip install sentencepiece"
        ) from error
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=config.model,
            vocab_size=config.vocab_size - config.sentinels,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * _LINE,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _wrong_size(config, str(error)) from error
    return SentencePieceTokenizer(model.getvalue(), config.sentinels)


def _lines(texts: Iterable[bytes]) -> Iterator[str]:
    """Pieces of the text; line breaks stay, the character for spaces goes."""
    for text in texts:
        decoded = text.decode(errors="replace").replace(SPACE, " ").replace("\0", " ")
        for at in range(0, len(decoded), _LINE):
            yield decoded[at : at + _LINE]


def sampled(texts: Iterable[tuple[int, bytes]], total: int) -> Iterator[bytes]:
    """Documents spread evenly over a large text, about 32 MiB of them.

    Args:
        texts: where each document ends in the text, and the document.
        total: bytes of all documents.
    """
    every = max(total / _MOST_BYTES, 1.0)
    taken = 0
    for end, text in texts:
        if taken * every <= end:
            taken += len(text)
            yield text


def _wrong_size(config: TrainedConfig, reason: str) -> ConfigError:
    """What the trainer says of a size, in terms of the whole vocabulary."""
    field, size = "data.tokenizer.vocab_size", config.vocab_size
    if most := re.search(r"value <= (\d+)", reason):
        allowed = f"at most {int(most[1]) + config.sentinels} for so little text"
        return ConfigError(field, size, allowed, "lower it, or give more text")
    if least := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        allowed = f"at least {int(least[1]) + config.sentinels} for the characters of this text"
        return ConfigError(field, size, allowed, "raise it")
    said = reason.rpartition("] ")[2].strip()[:120] or "no reason given"
    return ConfigError(field, size, f"what SentencePiece can learn from this text ({said})")
