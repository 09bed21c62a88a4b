"""From a configuration to a tokenizer, and from a run's own copy back to it."""

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path

from turnout.config.errors import ConfigError, UserError
from turnout.config.tokenizers import (
    BytesConfig,
    SentencePieceConfig,
    TokenizerJsonConfig,
    TrainedConfig,
)
from turnout.data.tokenizers.base import Tokenizer
from turnout.data.tokenizers.byte import ByteTokenizer
from turnout.data.tokenizers.json_file import JsonTokenizer
from turnout.data.tokenizers.sentence_piece import SentencePieceTokenizer

FOLDER = "tokenizer"  # in a run's folder


@singledispatch
def vocab_size(config: object) -> int:
    """Ids of a tokenizer, or of the one that a configuration will give, before text is read.

    Raises:
        UserError: its file cannot be read or is no such file, or its library is not installed.
    """
    raise ConfigError("data.tokenizer", config, "a tokenizer's configuration")


@vocab_size.register
def _(config: Tokenizer) -> int:
    return config.vocab_size


@vocab_size.register
def _(config: BytesConfig) -> int:
    return ByteTokenizer.vocab_size


@vocab_size.register
def _(config: SentencePieceConfig | TokenizerJsonConfig) -> int:
    return from_content(config, _file(config.path)).vocab_size


@vocab_size.register
def _(config: TrainedConfig) -> int:
    return config.vocab_size


@singledispatch
def load(config: object, learnt: Callable[[TrainedConfig], Tokenizer]) -> Tokenizer:
    """The tokenizer of a configuration; a tokenizer is its own.

    Args:
        learnt: makes the one that is to be learnt from the text.

    Raises:
        UserError: its file cannot be read or is no such file, or its library is not installed.
    """
    raise ConfigError("data.tokenizer", config, "a tokenizer's configuration")


@load.register
def _(config: Tokenizer, learnt: Callable[[TrainedConfig], Tokenizer]) -> Tokenizer:
    return config


@load.register
def _(config: BytesConfig, learnt: Callable[[TrainedConfig], Tokenizer]) -> Tokenizer:
    return ByteTokenizer()


@load.register
def _(
    config: SentencePieceConfig | TokenizerJsonConfig,
    learnt: Callable[[TrainedConfig], Tokenizer],
) -> Tokenizer:
    return from_content(config, _file(config.path))


@load.register
def _(config: TrainedConfig, learnt: Callable[[TrainedConfig], Tokenizer]) -> Tokenizer:
    return learnt(config)


@singledispatch
def from_content(config: object, content: bytes) -> Tokenizer:
    """The tokenizer of a configuration whose file holds ``content``.

    Raises:
        UserError: it is no such file.
    """
    raise ConfigError("data.tokenizer", config, "a tokenizer's configuration")


@from_content.register
def _(config: BytesConfig, content: bytes) -> Tokenizer:
    return ByteTokenizer()


@from_content.register
def _(config: SentencePieceConfig, content: bytes) -> Tokenizer:
    return _checked(SentencePieceTokenizer(content, config.sentinels), config.path)


@from_content.register
def _(config: TokenizerJsonConfig, content: bytes) -> Tokenizer:
    tokenizer = JsonTokenizer(content, config.sentinels, config.pad, config.eos)
    return _checked(tokenizer, config.path)


@from_content.register
def _(config: TrainedConfig, content: bytes) -> Tokenizer:
    return _checked(SentencePieceTokenizer(content, config.sentinels), "the run's own copy")


def save(tokenizer: Tokenizer, run: Path) -> None:
    """Keep a tokenizer's file in a run's folder, under its fingerprint; bytes need none."""
    path = _copy(run, tokenizer.fingerprint)
    if not tokenizer.content or path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(tokenizer.content)
    beside.replace(path)


def require_same(config: object, tokenizer: Tokenizer, checkpoint: str) -> None:
    """Refuse another tokenizer than the one of a checkpoint; the same file elsewhere will do.

    Raises:
        UserError: ``config`` is of another one, or of one that is learnt anew.
    """

    def learnt(asked: TrainedConfig) -> Tokenizer:
        raise UserError(
            f"data.tokenizer = {asked.kind!r} ({asked.model}, {asked.vocab_size}): does not match "
            f"{checkpoint}, which keeps its own; leave it out, or start a new run"
        )

    found = load(config, learnt)
    if found.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"data.tokenizer = {found.kind!r} ({found.fingerprint[:12]}): does not match "
            f"{checkpoint}, trained with {tokenizer.kind!r} ({tokenizer.fingerprint[:12]}); leave "
            "it out, or start a new run"
        )


def restore(config: object, run: Path, fingerprint: str | None) -> Tokenizer:
    """The tokenizer that a checkpoint of ``run`` names: the run's own copy, or the file that the
    configuration names. Without a fingerprint (checkpoints of 0.1.0), bytes.

    Raises:
        UserError: neither is the one that the checkpoint was trained with.
    """
    if fingerprint in (None, ByteTokenizer().fingerprint):
        return ByteTokenizer()
    path = _copy(run, str(fingerprint))
    content = _file(str(path)) if path.is_file() else _named(config, path)
    tokenizer = from_content(config, content)
    if tokenizer.fingerprint != fingerprint:
        known = str(fingerprint)[:12]
        raise UserError(
            f"data.tokenizer: {tokenizer.kind} ({tokenizer.fingerprint[:12]}) is not what the "
            f"checkpoint was trained with ({known}); restore that file as {str(path)!r}"
        )
    return tokenizer


@singledispatch
def _named(config: object, missing: Path) -> bytes:
    raise UserError(
        f"data.tokenizer: the run's own copy {str(missing)!r} is missing; restore it, it was "
        "learnt from the run's text"
    )


@_named.register
def _(config: SentencePieceConfig | TokenizerJsonConfig, missing: Path) -> bytes:
    return _file(config.path)


def _copy(run: Path, fingerprint: str) -> Path:
    return run / FOLDER / fingerprint[:32]


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"data.tokenizer.path: cannot read {path!r}: {error.strerror}; relative paths start "
            f"at {str(Path.cwd())!r}"
        ) from error


def _checked(tokenizer: Tokenizer, path: str) -> Tokenizer:
    try:
        size = tokenizer.vocab_size
    except UserError as error:
        raise UserError(f"data.tokenizer.path: {path!r}: {error}") from error
    if size < 1:
        raise UserError(f"data.tokenizer.path: {path!r}: an empty vocabulary")
    return tokenizer
