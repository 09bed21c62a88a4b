"""From a configuration to the batches of a run: any batch at any time, from (seed, step) alone.

The text is read, split by document and tokenised once, into the cache, and mapped from there. Row
numbers count through the run: number n is a row of epoch ``n // R``, in which the R rows come in
an order of their own. Axes: B batch, R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np
from jaxtyping import Int64

from turnout.config.cache import cache_folder
from turnout.config.errors import ConfigError, UserError, require
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.tokenizers import TokenizerConfig
from turnout.config.train import CausalConfig, RunConfig, SpanConfig
from turnout.data import baselines
from turnout.data.batch import Batch
from turnout.data.bits import bits_per_byte, count_bytes, text_bytes
from turnout.data.keys import mix, permutation
from turnout.data.ngrams import bits_by_order, unigram_nats
from turnout.data.packing import pack
from turnout.data.progress import Progress, Silent
from turnout.data.rows import RowSource, tensor
from turnout.data.shards.corpus import Corpus, Request, open_corpus
from turnout.data.side import Side, SideText
from turnout.data.span_corruption import fit, span_rows
from turnout.data.summary import Summary
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import vocab_size

# Validation is the same text, order, spans and keys in every run and at every evaluation.
VALIDATION_SEED = 0x7475726E6F7574
_BASELINE_ROWS = 2048


@dataclass(frozen=True)
class Data:
    """The batches of a run, its validation rows, and the baselines on exactly those rows."""

    run: RunConfig
    corpus: Corpus
    summary: Summary
    train_rows: RowSource
    validation_rows: RowSource

    @property
    def tokenizer(self) -> Tokenizer:
        return self.corpus.tokenizer

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
            self._batch(self.train_rows, index[part], number[part], keys[part], progress)
            for part in _parts(train.batch_rows, size)
        ]

    def validation(self) -> list[Batch]:
        """The same ``train.eval_rows`` held-out rows every time (all, if there are fewer)."""
        index = self._validation_index()
        number = np.arange(len(index))
        keys = mix(VALIDATION_SEED, 0, number)
        size = self.run.train.micro_batch_rows
        return [
            self._batch(self.validation_rows, index[part], number[part], keys[part], 1.0)
            for part in _parts(len(index), size)
        ]

    @property
    def train_bytes(self) -> int:
        return self.corpus.train_text.num_bytes

    @property
    def train_documents(self) -> SideText:
        return self.corpus.train_text

    @property
    def validation_documents(self) -> SideText:
        return self.corpus.validation_text

    def validation_targets(self) -> tuple[int, int]:
        """Targets of ``validation()``, and how many bytes of text they stand for."""
        batches = self.validation()
        return sum(int(batch.target_mask.sum()) for batch in batches), text_bytes(batches)

    def bits_per_byte(self, nats: float) -> float:
        """Bits per byte of text from the mean nats per target of ``validation()``."""
        return bits_per_byte(nats, self.validation())

    def no_ngrams(self) -> str:
        """Why there are no byte n-gram baselines, or empty where there are."""
        if self.corpus.tokens.aligned:
            return ""
        return (
            f"the {self.tokenizer.kind} vocabulary does not keep every byte of the text, so its "
            "tokens have no place in it"
        )

    def ngram_bits(self, order: int) -> tuple[float, ...]:
        """Bits per byte of n-gram models of order 0 to ``order``, trained on the training
        documents (64 MiB of them at most), on exactly the bytes that ``validation()`` asks for.

        Raises:
            UserError: tokens cannot be found in the text; see ``no_ngrams``.
        """
        if self.no_ngrams():
            raise UserError(f"no n-gram baseline: {self.no_ngrams()}")
        held_out, positions = baselines.asked(
            self.corpus.validation, self.validation_documents, self.tokenizer, self._predicted()
        )
        train = baselines.counted(self.train_documents)
        return bits_by_order(train, held_out, order, positions)

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

    def _predicted(self) -> Int64[np.ndarray, " N"]:
        """Offsets, among the held-out tokens, of those that ``validation()`` asks for."""
        index = self._validation_index()
        return self.validation_rows.predicted(index, np.arange(len(index)))

    def _batch(
        self,
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
            text_bytes=count_bytes(examples.targets, examples.target_mask, self.tokenizer),
        )


def build(
    run: RunConfig, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Data:
    """Read, split and tokenise the text of ``run``, or map what the cache has of it.

    Args:
        tokenizer: instead of the configured one: that of a checkpoint.
        progress: is told of work that takes time; nobody by default.

    Raises:
        UserError: text that is missing, unreadable or too short (see ``sources.read``).
        ConfigError: a vocabulary or row lengths that the text or the objective does not fit.
    """
    wanted = run.data.tokenizer if tokenizer is None else tokenizer
    _check_vocabulary(run.model, wanted)
    corpus = open_corpus(_request(run), wanted, progress or Silent())
    found = corpus.tokenizer
    train = row_source(run.objective, run.model, corpus.train, found, run.data.seed, "training")
    validation = row_source(
        run.objective, run.model, corpus.validation, found, VALIDATION_SEED, "validation"
    )
    group = _group_rows(run.model)
    if validation.num_rows < group:
        raise UserError(
            f"data.paths: the validation text makes {validation.num_rows} rows, fewer than a "
            f"routing group of {group}; give more text or raise data.validation_share"
        )
    summary = Summary.of(corpus, train.num_rows, validation.num_rows)
    return Data(run, corpus, summary, train, validation)


def _request(run: RunConfig) -> Request:
    data = run.data
    return Request(
        data.paths,
        data.text_field,
        data.validation_share,
        cache_folder(data.cache),
        run.train.threads,
    )


def _check_vocabulary(model: ModelConfig, tokenizer: Tokenizer | TokenizerConfig) -> None:
    need = vocab_size(tokenizer)
    require(
        model.vocab_size >= need,
        "model.vocab_size",
        model.vocab_size,
        f"at least {need}, the {tokenizer.kind} vocabulary",
        f"give --model.vocab-size {need}",
    )


@singledispatch
def row_source(
    objective: object, model: ModelConfig, side: Side, tokenizer: Tokenizer, seed: int, name: str
) -> RowSource:
    """Rows of one side of the split for an objective; registered by the objective's class.

    ``name`` is the side's, for messages.
    """
    raise ConfigError("objective", objective, "causal or span")


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
    rows = pack(side, tokenizer, decoder)
    need = decoder if name == "training" else 2
    if rows.num_tokens < need:
        raise UserError(
            f"data.paths: {rows.num_tokens:,} tokens of {name} text are too short for one row of "
            f"{decoder:,}; give more text or lower model.length"
        )
    return rows


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
