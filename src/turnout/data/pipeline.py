"""From a configuration to the batches of a run: any batch at any time, from (seed, step) alone.

The text is read, split by document and tokenised once, in memory. Row numbers count through the
run; ``order`` says which row of which source a number is. Axes: B batch, R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from turnout.config.errors import UserError, require
from turnout.config.mixture import MixtureConfig
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.data.keys import mix, permutation
from turnout.data.mixture import Mixture, RowShape, Shaped, block_quotas, quotas, source_seed
from turnout.data.ngrams import bits_by_order, unigram_nats
from turnout.data.order import Epochs, RowOrder
from turnout.data.prepared import VALIDATION_SEED, Prepared, Wanted, prepare
from turnout.data.rows import Examples, RowSource, tensor
from turnout.data.split import Split
from turnout.data.summary import Summary
from turnout.data.tokenizers import ByteTokenizer

_BASELINE_ROWS = 2048


@dataclass(frozen=True)
class HeldOut:
    """The rows of one source that every evaluation reads.

    Attributes:
        rows: all held-out rows of the source.
        index: those that are read.
        before: bytes of held-out text in the sources before this one.
    """

    rows: RowSource
    index: Int64[np.ndarray, " B"]
    before: int = 0

    @property
    def number(self) -> Int64[np.ndarray, " B"]:
        """What the random parts of the rows are drawn for."""
        return np.arange(len(self.index))


@dataclass(frozen=True)
class Data:
    """The batches of a run, its validation rows, and the baselines on exactly those rows.

    Attributes:
        documents: the text of all sources, one behind the other.
        train_rows: the rows of training, in order.
        held_out: the validation rows of each source.
        source_names: names of a mixture's sources, empty without one; ``Batch.labels`` are places
            in it.
    """

    run: RunConfig
    tokenizer: ByteTokenizer
    summary: Summary
    documents: Split
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
            _batch(
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
                batches.append(_batch(examples, row[part], keys[part], label, 1.0))
            first += len(row)
        return batches

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
        train = self.train_rows.read(np.arange(rows))
        held_out = [batch.targets[batch.target_mask].numpy() for batch in self.validation()]
        return unigram_nats(
            train.targets[train.target_mask].numpy(),
            np.concatenate(held_out),
            self.tokenizer.vocab_size,
        )

    def _validation_positions(self) -> Int64[np.ndarray, " N"]:
        return np.concatenate(
            [held.before + held.rows.predicted(held.index, held.number) for held in self.held_out]
        )


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
    if run.data.mixture is not None:
        return _mixed(run, tokenizer, run.data.mixture)
    data = run.data
    wanted = Wanted(run.model, data.paths, data.validation_share, data.seed)
    one = prepare(run.objective, wanted)
    held_out = HeldOut(one.validation, _sample(one.validation, run.train.eval_rows, run.model))
    order = Epochs(one.train, data.seed)
    return Data(run, tokenizer, one.summary, one.documents, order, (held_out,))


def _mixed(run: RunConfig, tokenizer: ByteTokenizer, mixture: MixtureConfig) -> Data:
    names = tuple(source.name for source in mixture.sources)
    seeds = [source_seed(run.data.seed, name) for name in names]
    parts = [_source(run, mixture, j, seed) for j, seed in enumerate(seeds)]
    shares = block_quotas(mixture, [part.train.num_rows for part in parts])
    shape = RowShape.common([rows for part in parts for rows in (part.train, part.validation)])
    epochs = zip(parts, seeds, strict=True)
    order = Mixture(
        tuple(Epochs(Shaped(part.train, shape), seed) for part, seed in epochs),
        shares,
        run.data.seed,
    )
    held_out = _held_out(run, names, parts, shares, shape)
    documents = Split(
        tuple(text for part in parts for text in part.documents.train),
        tuple(text for part in parts for text in part.documents.validation),
    )
    rates = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
    summary = Summary.mixed({n: p.summary for n, p in zip(names, parts, strict=True)}, rates)
    unseen = set(documents.validation)
    if both := sum(text in unseen for text in documents.train):
        note = f"{summary.note}; {both:,} training documents are held out in another source"
        summary = replace(summary, note=note)
    return Data(run, tokenizer, summary, documents, order, held_out, names)


def _source(run: RunConfig, mixture: MixtureConfig, number: int, seed: int) -> Prepared:
    """One source of a mixture; what is wrong with it is said under its name."""
    source = mixture.sources[number]
    wanted = Wanted(run.model, source.paths, run.data.validation_share, seed)
    objective = run.objective if source.objective is None else source.objective
    try:
        return prepare(objective, wanted)
    except UserError as error:
        raise UserError(f"source {source.name!r} of data.mixture: {error}") from error


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
    found, before = [], 0
    for name, part, count in zip(names, parts, groups, strict=True):
        index = _sample(part.validation, count * group, run.model, f"source {name!r}: ")
        found.append(HeldOut(Shaped(part.validation, shape), index, before))
        before += part.documents.validation_bytes
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


def _batch(
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
    )
