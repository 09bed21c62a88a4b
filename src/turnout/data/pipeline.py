"""From a configuration to the batches of a run: any batch at any time, from (seed, step) alone.

The text is read, split by document and tokenised once, into the cache, and mapped from there. Row
numbers count through the run; ``order`` says which row of which source a number is. Axes: B batch,
R rows, J sources, N tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from turnout.config.cache import cache_folder
from turnout.config.errors import UserError, require
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.model import ModelConfig
from turnout.config.objective import ObjectiveConfig
from turnout.config.tokenizers import TokenizerConfig, TrainedConfig
from turnout.config.train import RunConfig
from turnout.data import baselines
from turnout.data.batch import Batch
from turnout.data.bits import bits_per_byte, count_bytes, text_bytes
from turnout.data.keys import mix, permutation
from turnout.data.mixture import Mixture, RowShape, Shaped, block_quotas, quotas, source_seed
from turnout.data.ngrams import bits_by_order, unigram_nats
from turnout.data.order import Epochs, RowOrder
from turnout.data.prepared import VALIDATION_SEED, Prepared, Wanted, prepare, training_text
from turnout.data.progress import Progress, Silent
from turnout.data.rows import Examples, RowSource, tensor
from turnout.data.shards.corpus import Request
from turnout.data.shards.vocabulary import learnt_together
from turnout.data.summary import Summary
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.load import load, vocab_size

T = TypeVar("T")

_BASELINE_ROWS = 2048


@dataclass(frozen=True)
class HeldOut:
    """The rows of one source that every evaluation reads.

    Attributes:
        rows: all held-out rows of the source.
        index: those that are read.
    """

    rows: RowSource
    index: Int64[np.ndarray, " B"]

    @property
    def number(self) -> Int64[np.ndarray, " B"]:
        """What the random parts of the rows are drawn for."""
        return np.arange(len(self.index))


@dataclass(frozen=True)
class Data:
    """The batches of a run, its validation rows, and the baselines on exactly those rows.

    Attributes:
        tokenizer: that of all sources.
        parts: the sources; one, or those of a mixture.
        train_rows: the rows of training, in order.
        held_out: the validation rows of each source.
        source_names: names of a mixture's sources, empty without one; ``Batch.labels`` are places
            in it.
    """

    run: RunConfig
    tokenizer: Tokenizer
    summary: Summary
    parts: tuple[Prepared, ...]
    train_rows: RowOrder
    held_out: tuple[HeldOut, ...]
    source_names: tuple[str, ...] = ()

    def micro_batches(self, step: int) -> list[Batch]:
        """The ``train.micro_batches`` parts of step ``step`` (from 0), ``batch_rows`` together.

        The rows and their keys are the same however many parts there are.
        """
        train = self.run.train
        number = np.arange(step * train.batch_rows, (step + 1) * train.batch_rows)
        keys = mix(train.seed, step, number)
        progress = min(step / train.steps, 1.0)
        labels = self.train_rows.labels(number)
        return [
            self._batch(
                self.train_rows.read(number[part]),
                number[part],
                keys[part],
                None if labels is None else labels[part],
                progress,
            )
            for part in _parts(train.batch_rows, train.micro_batch_rows)
        ]

    def validation(self) -> list[Batch]:
        """The same ``train.eval_rows`` held-out rows every time (all, if there are fewer).

        Those of a mixture are shared among its sources as the rows of training are; each source
        gives at least one (one routing group), and no batch holds two sources.
        """
        batches, first = [], 0
        for source, held in enumerate(self.held_out):
            row = first + held.number
            keys = mix(VALIDATION_SEED, 0, row)
            labels = np.full_like(row, source) if self.source_names else None
            for part in _parts(len(row), self.run.train.micro_batch_rows):
                examples = held.rows.read(held.index[part], held.number[part])
                label = None if labels is None else labels[part]
                batches.append(self._batch(examples, row[part], keys[part], label, 1.0))
            first += len(row)
        return batches

    @property
    def train_bytes(self) -> int:
        return sum(part.train.text.num_bytes for part in self.parts)

    @property
    def train_documents(self) -> Iterator[bytes]:
        """The training text of all sources, one behind the other."""
        return chain.from_iterable(part.train.text for part in self.parts)

    @property
    def validation_documents(self) -> Iterator[bytes]:
        """The held-out text of all sources, one behind the other."""
        return chain.from_iterable(part.validation.text for part in self.parts)

    def validation_targets(self) -> tuple[int, int]:
        """Targets of ``validation()``, and how many bytes of text they stand for."""
        batches = self.validation()
        return sum(int(batch.target_mask.sum()) for batch in batches), text_bytes(batches)

    def bits_per_byte(self, nats: float) -> float:
        """Bits per byte of text from the mean nats per target of ``validation()``."""
        return bits_per_byte(nats, self.validation())

    def no_ngrams(self) -> str:
        """Why there are no byte n-gram baselines, or empty where there are."""
        if all(part.aligned for part in self.parts):
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
        held_out, positions = self.asked()
        train = baselines.counted([part.train.text for part in self.parts])
        return bits_by_order(train, held_out, order, positions)

    def asked(self) -> tuple[list[bytes], Int64[np.ndarray, " N"]]:
        """Held-out documents of all sources, and the places in them, joined, of the bytes that
        ``validation()`` asks for; see ``baselines.asked``."""
        documents: list[bytes] = []
        places = [np.empty(0, np.int64)]
        for part, held in zip(self.parts, self.held_out, strict=True):
            offsets = held.rows.predicted(held.index, held.number)
            side, text = part.validation.side, part.validation.text
            found, within = baselines.asked(side, text, self.tokenizer, offsets)
            places.append(sum(map(len, documents)) + within)
            documents += found
        return documents, np.concatenate(places)

    def unigram_nats(self) -> float:
        """Nats per target of ``validation()`` predicted by the frequencies of training targets.

        They are counted over up to 2,048 training rows, each token once more.
        """
        rows = min(self.train_rows.num_rows, _BASELINE_ROWS)
        train = self.train_rows.read(np.arange(rows))
        held_out = [batch.targets[batch.target_mask].numpy() for batch in self.validation()]
        return unigram_nats(
            train.targets[train.target_mask].numpy(),
            np.concatenate(held_out),
            self.tokenizer.vocab_size,
        )

    def _batch(
        self,
        examples: Examples,
        row: Int64[np.ndarray, " B"],
        keys: Int64[np.ndarray, " B"],
        labels: Int64[np.ndarray, " B"] | None,
        progress: float,
    ) -> Batch:
        return Batch(
            decoder=examples.decoder,
            targets=examples.targets,
            target_mask=examples.target_mask,
            keys=tensor(keys),
            row=tensor(row),
            encoder=examples.encoder,
            labels=None if labels is None else tensor(labels),
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
    data = run.data
    given = data.tokenizer if tokenizer is None else tokenizer
    _check_vocabulary(run.model, given)
    cache = cache_folder(data.cache)
    request = Request(data.paths, data.text_field, data.validation_share, cache, run.train.threads)
    wanted = Wanted(run.model, request, given, data.seed, progress or Silent())
    if data.mixture is not None:
        return _mixed(run, wanted, data.mixture)
    one = prepare(run.objective, wanted)
    rows = one.validation.rows
    held_out = HeldOut(rows, _sample(rows, run.train.eval_rows, run.model))
    order = Epochs(one.train.rows, data.seed)
    return Data(run, one.tokenizer, one.summary, (one,), order, (held_out,))


def _mixed(run: RunConfig, wanted: Wanted, mixture: MixtureConfig) -> Data:
    names = tuple(source.name for source in mixture.sources)
    tokenizer = _shared(run, wanted, mixture)
    seeds = [source_seed(run.data.seed, name) for name in names]
    parts = tuple(
        _of(run, replace(wanted, tokenizer=tokenizer, seed=seed), source, prepare)
        for source, seed in zip(mixture.sources, seeds, strict=True)
    )
    shares = block_quotas(mixture, [part.train.rows.num_rows for part in parts])
    shape = RowShape.common([side.rows for part in parts for side in (part.train, part.validation)])
    epochs = zip(parts, seeds, strict=True)
    order = Mixture(
        tuple(Epochs(Shaped(part.train.rows, shape), seed) for part, seed in epochs),
        shares,
        run.data.seed,
    )
    held_out = _held_out(run, names, parts, shares, shape)
    rates = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
    summary = Summary.mixed({n: p.summary for n, p in zip(names, parts, strict=True)}, rates)
    if both := _in_both(parts):
        note = f"{summary.note}; {both:,} training documents are held out in another source"
        summary = replace(summary, note=note)
    return Data(run, tokenizer, summary, parts, order, held_out, names)


def _shared(run: RunConfig, wanted: Wanted, mixture: MixtureConfig) -> Tokenizer:
    """The tokenizer of all sources; one that is to be learnt, from their training sides."""

    def learnt(config: TrainedConfig) -> Tokenizer:
        training = [_of(run, wanted, source, training_text) for source in mixture.sources]
        return learnt_together(config, training, wanted.request.cache, wanted.progress)

    return load(wanted.tokenizer, learnt)


def _of(
    run: RunConfig,
    wanted: Wanted,
    source: SourceConfig,
    read: Callable[[ObjectiveConfig, Wanted], T],
) -> T:
    """One source of a mixture; what is wrong with it is said under its name."""
    objective = run.objective if source.objective is None else source.objective
    request = replace(wanted.request, paths=source.paths)
    try:
        return read(objective, replace(wanted, request=request))
    except UserError as error:
        raise UserError(f"source {source.name!r} of data.mixture: {error}") from error


def _in_both(parts: Sequence[Prepared]) -> int:
    """Training documents that are held-out documents too, as texts of two sources can be."""
    unseen = {digest.tobytes() for part in parts for digest in part.validation.text.digests()}
    training = (digest.tobytes() for part in parts for digest in part.train.text.digests())
    return sum(digest in unseen for digest in training)


def _check_vocabulary(model: ModelConfig, tokenizer: Tokenizer | TokenizerConfig) -> None:
    need = vocab_size(tokenizer)
    require(
        model.vocab_size >= need,
        "model.vocab_size",
        model.vocab_size,
        f"at least {need}, the {tokenizer.kind} vocabulary",
        f"give --model.vocab-size {need}",
    )


def _held_out(
    run: RunConfig,
    names: Sequence[str],
    parts: Sequence[Prepared],
    shares: Sequence[int],
    shape: RowShape,
) -> tuple[HeldOut, ...]:
    group = _group_rows(run.model)
    rates = [share / sum(shares) for share in shares]
    groups = [max(count, 1) for count in quotas(rates, run.train.eval_rows // group)]
    found = []
    for name, part, count in zip(names, parts, groups, strict=True):
        rows = part.validation.rows
        index = _sample(rows, count * group, run.model, f"source {name!r}: ")
        found.append(HeldOut(Shaped(rows, shape), index))
    return tuple(found)


def _sample(
    rows: RowSource, most: int, model: ModelConfig, where: str = ""
) -> Int64[np.ndarray, " B"]:
    """Up to ``most`` of the rows, from all over them; whole routing groups.

    Raises:
        UserError: there are fewer than a group.
    """
    group = _group_rows(model)
    if rows.num_rows < group:
        raise UserError(
            f"{where}data.paths: the validation text makes {rows.num_rows} rows, fewer than a "
            f"routing group of {group}; give more text or raise data.validation_share"
        )
    count = min(most, rows.num_rows)
    return permutation(rows.num_rows, VALIDATION_SEED)[: count - count % group]


def _group_rows(model: ModelConfig) -> int:
    """Rows of the batch that are never cut apart."""
    return 1 if model.moe is None else model.moe.group.rows


def _parts(rows: int, size: int) -> Iterator[slice]:
    return (slice(at, at + size) for at in range(0, rows, size))
