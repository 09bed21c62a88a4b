"""One source of text, read, split by document, and cut into the rows of its objective."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import final

from turnout.config.errors import ConfigError, UserError, require
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.config.tokenizers import TokenizerConfig, TrainedConfig
from turnout.data.examples import Example, read_examples, sha256, split_examples
from turnout.data.overlap import Overlap
from turnout.data.packing import PackedRows, pack
from turnout.data.prefix import CausalPrefixRows, SplitRows, split_length
from turnout.data.progress import Progress
from turnout.data.rows import RowSource
from turnout.data.shards import corpus
from turnout.data.shards.corpus import Request, open_corpus
from turnout.data.shards.vocabulary import learnt_together
from turnout.data.side import Side, SideText
from turnout.data.sources import in_words
from turnout.data.span_corruption import fit, span_rows
from turnout.data.summary import Summary
from turnout.data.text_to_text import pair_rows
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import load

# Validation is the same text, order, spans and keys in every run and at every evaluation.
VALIDATION_SEED = 0x7475726E6F7574


@dataclass(frozen=True)
class Wanted:
    """What a source is made from, beside its objective.

    Attributes:
        model: decides the lengths of rows.
        request: which text, and how it is split.
        tokenizer: a tokenizer, or the configuration of one.
        seed: of what is random about a training row.
        progress: is told of work that takes time.
    """

    model: ModelConfig
    request: Request
    tokenizer: Tokenizer | TokenizerConfig
    seed: int
    progress: Progress


@dataclass(frozen=True)
class Part:
    """One side of a source: its rows, and the tokens and the text that they are made from."""

    rows: RowSource
    side: Side
    text: SideText


@final
@dataclass(frozen=True)
class Prepared:
    """A source, ready to be read."""

    summary: Summary
    tokenizer: Tokenizer
    train: Part
    validation: Part

    @property
    def aligned(self) -> bool:
        """Whether the tokens stand for exactly the bytes of each text; see ``Tokens``."""
        return self.validation.side.tokens.aligned


@singledispatch
def prepare(objective: object, wanted: Wanted) -> Prepared:
    """Read, split and tokenise a source for an objective, or map what the cache has of it.

    Raises:
        UserError: text that is missing, unreadable or too short (see ``sources.read``).
        ConfigError: row lengths that the objective does not fit.
    """
    found = open_corpus(wanted.request, wanted.tokenizer, wanted.progress)
    model, tokenizer = wanted.model, found.tokenizer
    train = row_source(objective, model, found.train, tokenizer, wanted.seed, "training")
    validation = row_source(
        objective, model, found.validation, tokenizer, VALIDATION_SEED, "validation"
    )
    return Prepared(
        Summary.of(found, train.num_rows, validation.num_rows),
        tokenizer,
        Part(train, found.train, found.train_text),
        Part(validation, found.validation, found.validation_text),
    )


@prepare.register
def _(objective: TextToTextConfig, wanted: Wanted) -> Prepared:
    request = wanted.request
    examples, without = read_examples(request.paths, objective)
    sides = split_examples(examples, request.validation_share)
    train_text, validation_text = _text(sides.train), _text(sides.validation)

    def learnt(config: TrainedConfig) -> Tokenizer:
        return learnt_together(config, (train_text,), request.cache, wanted.progress)

    tokenizer = load(wanted.tokenizer, learnt)
    lengths = _lengths(wanted.model)
    threads = request.threads or os.cpu_count() or 1
    train = pair_rows(sides.train, tokenizer, objective, *lengths, threads)
    validation = pair_rows(sides.validation, tokenizer, objective, *lengths, threads)
    cut = int(train.kept.cut.sum() + validation.kept.cut.sum())
    tokens = len(train.pairs.tokens) + len(validation.pairs.tokens)
    summary = Summary(
        origin=in_words(request.paths),
        sha256=sha256(examples),
        tokenizer=tokenizer.kind,
        documents=len(examples),
        bytes=train_text.num_bytes + validation_text.num_bytes,
        tokens=tokens,
        train_documents=len(train_text),
        train_bytes=train_text.num_bytes,
        train_rows=train.num_rows,
        validation_documents=len(validation_text),
        validation_bytes=validation_text.num_bytes,
        validation_rows=validation.num_rows,
        duplicates=0,
        overlap=Overlap(0, 0),
        skipped={"without targets": without} if without else {},
        replaced=0,
        note=f"{cut:,} of {len(examples):,} examples are too long and cut" if cut else "",
    )
    return Prepared(
        summary,
        tokenizer,
        Part(train, train.pairs.side, train_text),
        Part(validation, validation.pairs.side, validation_text),
    )


@singledispatch
def training_text(objective: object, wanted: Wanted) -> SideText:
    """What ``prepare`` would train on, not tokenised.

    Raises:
        UserError: see ``prepare``.
    """
    return corpus.training_text(wanted.request, wanted.progress)


@training_text.register
def _(objective: TextToTextConfig, wanted: Wanted) -> SideText:
    examples, _ = read_examples(wanted.request.paths, objective)
    return _text(split_examples(examples, wanted.request.validation_share).train)


def _text(examples: Sequence[Example]) -> SideText:
    return SideText.held([example.text for example in examples])


@singledispatch
def row_source(
    objective: object, model: ModelConfig, side: Side, tokenizer: Tokenizer, seed: int, name: str
) -> RowSource:
    """Rows of one side of the split for an objective; registered by the objective's class.

    ``name`` is the side's, for messages.
    """
    raise ConfigError("objective", objective, "causal, span or prefix")


@row_source.register
def _causal(
    objective: CausalConfig,
    model: ModelConfig,
    side: Side,
    tokenizer: Tokenizer,
    seed: int,
    name: str,
) -> RowSource:
    _, decoder = _lengths(model)
    return _packed(side, tokenizer, decoder, name)


@row_source.register
def _span(
    objective: SpanConfig,
    model: ModelConfig,
    side: Side,
    tokenizer: Tokenizer,
    seed: int,
    name: str,
) -> RowSource:
    encoder, decoder = _lengths(model)
    lengths = fit(encoder, objective, tokenizer.num_sentinels)
    require(
        lengths.targets <= decoder,
        "model.decoder_length",
        decoder,
        f"at least {lengths.targets}, the targets of {encoder} encoder tokens",
    )
    return span_rows(side, tokenizer, lengths, seed, name=name)


@row_source.register
def _prefix(
    objective: PrefixConfig,
    model: ModelConfig,
    side: Side,
    tokenizer: Tokenizer,
    seed: int,
    name: str,
) -> RowSource:
    encoder, decoder = _lengths(model)
    if not encoder:
        return CausalPrefixRows(_packed(side, tokenizer, decoder, name), seed)
    length = split_length(encoder, decoder)
    if side.num_tokens < length:
        raise UserError(
            f"data.paths: {side.num_tokens:,} tokens of {name} text are too short for one row of "
            f"{length:,}; give more text or lower model.decoder_length"
        )
    return SplitRows(side, tokenizer, length, seed)


def _packed(side: Side, tokenizer: Tokenizer, length: int, name: str) -> PackedRows:
    rows = pack(side, tokenizer, length)
    need = length if name == "training" else 2
    if rows.num_tokens < need:
        raise UserError(
            f"data.paths: {rows.num_tokens:,} tokens of {name} text are too short for one row of "
            f"{length:,}; give more text or lower model.length"
        )
    return rows


@singledispatch
def _lengths(model: object) -> tuple[int, int]:
    """Configured tokens of a row: encoder (0: there is none) and decoder."""
    raise ConfigError("model", model, "a decoder-only or an encoder-decoder model")


@_lengths.register
def _(model: DecoderOnlyConfig) -> tuple[int, int]:
    return 0, model.length


@_lengths.register
def _(model: EncoderDecoderConfig) -> tuple[int, int]:
    return model.encoder_length, model.decoder_length
