"""From a configuration to the batches of a run: any batch at any time, from (seed, step) alone.

The text is read, split by document and tokenised once, in memory. Row numbers count through the
run: number n is a row of epoch ``n // R``, in which the R rows come in an order of their own.
Axes: B batch, R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np
from jaxtyping import Int64

from turnout.config.errors import ConfigError, UserError, require
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.train import CausalConfig, RunConfig, SpanConfig
from turnout.data.batch import Batch
from turnout.data.keys import mix, permutation
from turnout.data.ngrams import bits_by_order, unigram_nats
from turnout.data.packing import pack
from turnout.data.rows import RowSource, tensor
from turnout.data.sources import read
from turnout.data.span_corruption import fit, span_rows
from turnout.data.split import Split, split
from turnout.data.summary import Summary
from turnout.data.tokenizers import ByteTokenizer

# Validation is the same text, order, spans and keys in every run and at every evaluation.
VALIDATION_SEED = 0x7475726E6F7574
_BASELINE_ROWS = 2048


@dataclass(frozen=True)
class Data:
    """The batches of a run, its validation rows, and the baselines on exactly those rows."""

    run: RunConfig
    tokenizer: ByteTokenizer
    summary: Summary
    documents: Split
    train_rows: RowSource
    validation_rows: RowSource

    def micro_batches(self, step: int) -> list[Batch]:
        """The ``train.micro_batches`` parts of step ``step`` (from 0), ``batch_rows`` together.

        The rows and their keys are the same however many parts there are.
        """
        train = self.run.train
        number = np.arange(step * train.batch_rows, (step + 1) * train.batch_rows)
        keys = mix(train.seed, step, number)
        progress = min(step / train.steps, 1.0)
        index = _shuffled(self.train_rows.num_rows, self.run.data.seed, number)
        size = train.micro_batch_rows
        return [
            _batch(self.train_rows, index[part], number[part], keys[part], progress)
            for part in _parts(train.batch_rows, size)
        ]

    def validation(self) -> list[Batch]:
        """The same ``train.eval_rows`` held-out rows every time (all, if there are fewer)."""
        index = self._validation_index()
        number = np.arange(len(index))
        keys = mix(VALIDATION_SEED, 0, number)
        size = self.run.train.micro_batch_rows
        return [
            _batch(self.validation_rows, index[part], number[part], keys[part], 1.0)
            for part in _parts(len(index), size)
        ]

    @property
    def train_bytes(self) -> int:
        return self.documents.train_bytes

    @property
    def train_documents(self) -> tuple[bytes, ...]:
        return self.documents.train

    @property
    def validation_documents(self) -> tuple[bytes, ...]:
        return self.documents.validation

    def validation_targets(self) -> tuple[int, int]:
        """Targets of ``validation()``, and how many of them are bytes of text."""
        targets = sum(int(batch.target_mask.sum()) for batch in self.validation())
        return targets, len(self._validation_positions())

    def bits_per_byte(self, nats: float) -> float:
        """Bits per byte of text from the mean nats per target of ``validation()``.

        Ends of text (and sentinels) cost nats as any target but are no text: the bits of all
        targets are divided by the bytes among them.
        """
        targets, text = self.validation_targets()
        return nats * targets / float(np.log(2)) / text

    def ngram_bits(self, order: int) -> tuple[float, ...]:
        """Bits per byte of n-gram models of order 0 to ``order``, trained on the training
        documents, on exactly the bytes of text that ``validation()`` asks for."""
        return bits_by_order(
            self.documents.train, self.documents.validation, order, self._validation_positions()
        )

    def unigram_nats(self) -> float:
        """Nats per target of ``validation()`` predicted by the frequencies of training targets.

        They are counted over up to 2,048 training rows, each token once more.
        """
        rows = min(self.train_rows.num_rows, _BASELINE_ROWS)
        number = np.arange(rows)
        index = _shuffled(self.train_rows.num_rows, self.run.data.seed, number)
        train = self.train_rows.read(index, number)
        held_out = [batch.targets[batch.target_mask].numpy() for batch in self.validation()]
        return unigram_nats(
            train.targets[train.target_mask].numpy(),
            np.concatenate(held_out),
            self.tokenizer.vocab_size,
        )

    def _validation_index(self) -> Int64[np.ndarray, " B"]:
        # A sample of all documents, not the first few.
        rows = self.validation_rows.num_rows
        count = min(self.run.train.eval_rows, rows)
        count -= count % _group_rows(self.run.model)
        return permutation(rows, VALIDATION_SEED)[:count]

    def _validation_positions(self) -> Int64[np.ndarray, " N"]:
        index = self._validation_index()
        return self.validation_rows.predicted(index, np.arange(len(index)))


def build(run: RunConfig) -> Data:
    """Read, split and tokenise the text of ``run``.

    Raises:
        UserError: text that is missing, unreadable or too short (see ``sources.read``).
        ConfigError: a vocabulary or row lengths that the text or the objective does not fit.
    """
    tokenizer = ByteTokenizer()
    require(
        run.model.vocab_size >= tokenizer.vocab_size,
        "model.vocab_size",
        run.model.vocab_size,
        f"at least {tokenizer.vocab_size}, the byte vocabulary",
    )
    documents = read(run.data.paths)
    sides = split(documents.texts, run.data.validation_share)
    train = row_source(run.objective, run.model, sides.train, run.data.seed, "training")
    validation = row_source(
        run.objective, run.model, sides.validation, VALIDATION_SEED, "validation"
    )
    group = _group_rows(run.model)
    if validation.num_rows < group:
        raise UserError(
            f"data.paths: the validation text makes {validation.num_rows} rows, fewer than a "
            f"routing group of {group}; give more text or raise data.validation_share"
        )
    summary = Summary.of(documents, sides, train.num_rows, validation.num_rows)
    return Data(run, tokenizer, summary, sides, train, validation)


@singledispatch
def row_source(
    objective: object, model: ModelConfig, documents: tuple[bytes, ...], seed: int, side: str
) -> RowSource:
    """Rows of one side of the split for an objective; registered by the objective's class."""
    raise ConfigError("objective", objective, "causal or span")


@row_source.register
def _causal(
    objective: CausalConfig,
    model: ModelConfig,
    documents: tuple[bytes, ...],
    seed: int,
    side: str,
) -> RowSource:
    _, decoder = _lengths(model)
    rows = pack(documents, decoder)
    need = decoder if side == "training" else 2
    if len(rows.tokens) < need:
        raise UserError(
            f"data.paths: {len(rows.tokens):,} tokens of {side} text are too short for one row of "
            f"{decoder:,}; give more text or lower model.length"
        )
    return rows


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


def _group_rows(model: ModelConfig) -> int:
    """Rows of the batch that are never cut apart."""
    return 1 if model.moe is None else model.moe.group.rows


@lru_cache(maxsize=8)
def _order(rows: int, seed: int, epoch: int) -> Int64[np.ndarray, " R"]:
    return permutation(rows, seed, epoch)


def _shuffled(rows: int, seed: int, number: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
    """The row that each global row number reads: every epoch is an order of all rows."""
    epoch, place = np.divmod(number, rows)
    index = np.empty_like(place)
    for each in np.unique(epoch).tolist():
        index[epoch == each] = _order(rows, seed, each)[place[epoch == each]]
    return index


def _parts(rows: int, size: int) -> Iterator[slice]:
    return (slice(at, at + size) for at in range(0, rows, size))


def _batch(
    rows: RowSource,
    index: Int64[np.ndarray, " B"],
    number: Int64[np.ndarray, " B"],
    keys: Int64[np.ndarray, " B"],
    progress: float,
) -> Batch:
    examples = rows.read(index, number)
    return Batch(
        decoder=examples.decoder,
        targets=examples.targets,
        target_mask=examples.target_mask,
        keys=tensor(keys),
        row=tensor(number),
        encoder=examples.encoder,
        progress=progress,
    )
