"""One source of text, read, split by document, and cut into the rows of its objective."""

from dataclasses import dataclass
from functools import singledispatch

from turnout.config.errors import ConfigError, UserError, require
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.data.examples import read_examples, sha256, split_examples
from turnout.data.packing import PackedRows, pack
from turnout.data.prefix import CausalPrefixRows, SplitRows, split_length
from turnout.data.rows import RowSource, join
from turnout.data.sources import Documents, read
from turnout.data.span_corruption import fit, span_rows
from turnout.data.split import Split, split
from turnout.data.summary import Summary
from turnout.data.text_to_text import pair_rows
from turnout.data.tokenizers import ByteTokenizer

# Validation is the same text, order, spans and keys in every run and at every evaluation.
VALIDATION_SEED = 0x7475726E6F7574


@dataclass(frozen=True)
class Wanted:
    """What a source is made from, beside its objective.

    Attributes:
        model: decides the lengths of rows.
        paths: as ``data.paths``.
        validation_share: as ``data.validation_share``.
        seed: of what is random about a training row.
    """

    model: ModelConfig
    paths: tuple[str, ...]
    validation_share: float
    seed: int


@dataclass(frozen=True)
class Prepared:
    """A source, ready to be read; ``documents`` are the texts that the rows' offsets count in."""

    summary: Summary
    documents: Split
    train: RowSource
    validation: RowSource


@singledispatch
def prepare(objective: object, wanted: Wanted) -> Prepared:
    """Read, split and tokenise a source for an objective.

    Raises:
        UserError: text that is missing, unreadable or too short (see ``sources.read``).
        ConfigError: row lengths that the objective does not fit.
    """
    documents = read(wanted.paths)
    sides = split(documents.texts, wanted.validation_share)
    train = row_source(objective, wanted.model, sides.train, wanted.seed, "training")
    validation = row_source(
        objective, wanted.model, sides.validation, VALIDATION_SEED, "validation"
    )
    summary = Summary.of(documents, sides, train.num_rows, validation.num_rows)
    return Prepared(summary, sides, train, validation)


@prepare.register
def _(objective: TextToTextConfig, wanted: Wanted) -> Prepared:
    examples, without = read_examples(wanted.paths, objective)
    sides = split_examples(examples, wanted.validation_share)
    lengths = _lengths(wanted.model)
    train = pair_rows(sides.train, objective, *lengths)
    validation = pair_rows(sides.validation, objective, *lengths)
    cut = int(train.kept.cut.sum() + validation.kept.cut.sum())
    texts = Split(
        tuple(example.text for example in sides.train),
        tuple(example.text for example in sides.validation),
        f"{cut:,} of {len(examples):,} examples are too long and cut" if cut else "",
    )
    documents = Documents(
        names=tuple(example.place for example in examples),
        texts=tuple(example.text for example in examples),
        sha256=sha256(examples),
        skipped={"without targets": without} if without else {},
        replaced=0,
        origin=", ".join(dict.fromkeys(wanted.paths)),
    )
    summary = Summary.of(documents, texts, train.num_rows, validation.num_rows)
    return Prepared(summary, texts, train, validation)


@singledispatch
def row_source(
    objective: object, model: ModelConfig, documents: tuple[bytes, ...], seed: int, side: str
) -> RowSource:
    """Rows of one side of the split for an objective; registered by the objective's class."""
    raise ConfigError("objective", objective, "causal, span or prefix")


@row_source.register
def _causal(
    objective: CausalConfig,
    model: ModelConfig,
    documents: tuple[bytes, ...],
    seed: int,
    side: str,
) -> RowSource:
    _, decoder = _lengths(model)
    return _packed(documents, decoder, side)


@row_source.register
def _span(
    objective: SpanConfig,
    model: ModelConfig,
    documents: tuple[bytes, ...],
    seed: int,
    side: str,
) -> RowSource:
    encoder, decoder = _lengths(model)
    lengths = fit(encoder, objective)
    require(
        lengths.targets <= decoder,
        "model.decoder_length",
        decoder,
        f"at least {lengths.targets}, the targets of {encoder} encoder tokens",
    )
    return span_rows(documents, lengths, seed, side=side)


@row_source.register
def _prefix(
    objective: PrefixConfig,
    model: ModelConfig,
    documents: tuple[bytes, ...],
    seed: int,
    side: str,
) -> RowSource:
    encoder, decoder = _lengths(model)
    if not encoder:
        return CausalPrefixRows(_packed(documents, decoder, side), seed)
    tokens, length = join(documents, ByteTokenizer()), split_length(encoder, decoder)
    if len(tokens) < length:
        raise UserError(
            f"data.paths: {len(tokens):,} bytes of {side} text are too short for one row of "
            f"{length:,}; give more text or lower model.decoder_length"
        )
    return SplitRows(tokens, length, seed)


def _packed(documents: tuple[bytes, ...], length: int, side: str) -> PackedRows:
    rows = pack(documents, length)
    need = length if side == "training" else 2
    if len(rows.tokens) < need:
        raise UserError(
            f"data.paths: {len(rows.tokens):,} tokens of {side} text are too short for one row of "
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
