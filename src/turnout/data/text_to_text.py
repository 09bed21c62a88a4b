"""Rows of text-to-text examples: targets are predicted from inputs, which carry no loss.

An end of text follows the inputs, and one the targets. With an encoder the inputs ``a b`` and
targets ``c d`` are ``a b end`` for the encoder and ``c d end`` for the decoder to predict. In one
stack they are the row that reads ``start a b end c d`` to predict ``a b end c d end``, of which
``c d end`` carry loss.

What is too long is cut at its end. An encoder's inputs keep what fits with their end behind it. In
one stack inputs get what the targets leave, and half of the row at least. Targets that are cut have
no end, since they do not end there.

Examples stand in a row, in the order of the source, as long as they fit: each is a segment, of the
same number in both streams.

Axes: B batch, S sequence, K examples, N tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer

from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import TextToTextConfig
from turnout.data.batch import Stream
from turnout.data.examples import Example
from turnout.data.rows import Examples, RowSource, tensor
from turnout.data.shards.tokens import Tokens
from turnout.data.side import Side
from turnout.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Pairs:
    """Tokenised examples: inputs of example k are ``tokens[starts[k] : middles[k]]``, its targets
    ``tokens[middles[k] : starts[k + 1]]``, without ends of text. They are ``aligned`` where the
    tokens of each string stand for exactly its bytes."""

    tokens: Integer[np.ndarray, " N"]
    middles: Int64[np.ndarray, " K"]
    starts: Int64[np.ndarray, " K+1"]
    aligned: bool

    @staticmethod
    def of(examples: Sequence[Example], tokenizer: Tokenizer, threads: int = 1) -> "Pairs":
        """Encode ``examples``, inputs and targets each by themselves."""
        texts = [text for example in examples for text in (example.inputs, example.targets)]
        encoded = tokenizer.encode_documents(texts, threads)
        bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        tokens = np.concatenate([np.empty(0, np.uint16), *encoded])
        ends = np.append(0, np.cumsum(tokenizer.byte_lengths[tokens]))[bounds]
        aligned = bool((np.diff(ends) == np.array([*map(len, texts)])).all())
        return Pairs(tokens, bounds[1::2], bounds[::2], aligned)

    @property
    def side(self) -> Side:
        """The examples as documents, in each the inputs and behind them the targets."""
        size = max(len(self.tokens), 1)
        tokens = Tokens((self.tokens,), size, self.starts, self.aligned)
        return Side.of(tokens, np.arange(len(self.middles)))


@dataclass(frozen=True)
class Kept:
    """What is kept of every example.

    Attributes:
        inputs, targets: tokens, from the start of each.
        ended: whether the targets are whole, so that an end of text follows them.
        cut: whether anything is missing.
    """

    inputs: Int64[np.ndarray, " K"]
    targets: Int64[np.ndarray, " K"]
    ended: Bool[np.ndarray, " K"]
    cut: Bool[np.ndarray, " K"]

    @property
    def prompts(self) -> Int64[np.ndarray, " K"]:
        """Tokens of the inputs and their end."""
        return self.inputs + 1

    @property
    def answers(self) -> Int64[np.ndarray, " K"]:
        """Tokens of the targets and their end, where they have one."""
        return np.where(self.ended, self.targets + 1, self.targets)


@dataclass(frozen=True)
class PairRows(RowSource):
    """Row r holds the examples ``begin[r] : begin[r + 1]``, and padding behind them.

    Attributes:
        encoder_length: positions of the encoder's rows; 0 in one stack.
        decoder_length: positions of the decoder's rows.
        max_examples: bound on the examples of a row.
        visible: whether the inputs of one stack read each other in both directions.
    """

    pairs: Pairs
    tokenizer: Tokenizer
    kept: Kept
    begin: Int64[np.ndarray, " bounds"]
    encoder_length: int
    decoder_length: int
    max_examples: int
    visible: bool

    @property
    def num_rows(self) -> int:
        return len(self.begin) - 1

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; nothing here depends on ``number``."""
        encoder = _Sheet(len(index), self.encoder_length)
        decoder = _Sheet(len(index), self.decoder_length)
        targets = _Sheet(len(index), self.decoder_length)
        loss = np.zeros((len(index), self.decoder_length), dtype=bool)
        visible = np.zeros_like(loss)
        for row, which in enumerate(index.tolist()):
            for example in range(self.begin[which], self.begin[which + 1]):
                prompt, answer = self._texts(example)
                if self.encoder_length:
                    encoder.add(row, prompt)
                    prompt = prompt[:0]
                text = np.concatenate([prompt, answer])
                decoder.add(row, np.concatenate([[self.tokenizer.pad], text[:-1]]))
                here = targets.add(row, text)
                first = here.start + len(prompt)
                loss[row, first : here.stop] = True
                visible[row, here.start : first + 1] = True
        shown = torch.from_numpy(visible) if self.visible and not self.encoder_length else None
        return Examples(
            decoder=decoder.stream(self.max_examples, shown),
            targets=tensor(targets.ids),
            target_mask=torch.from_numpy(loss),
            encoder=encoder.stream(self.max_examples) if self.encoder_length else None,
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``; a document is an example's inputs and targets."""
        spans = [
            np.arange(self.pairs.middles[k], self.pairs.middles[k] + self.kept.targets[k])
            for which in np.sort(index).tolist()
            for k in range(self.begin[which], self.begin[which + 1])
        ]
        return np.concatenate([np.arange(0), *spans])

    def _texts(
        self, example: int
    ) -> tuple[Int64[np.ndarray, " inputs"], Int64[np.ndarray, " targets"]]:
        """Inputs and targets as they are kept, with their ends."""
        start, middle = self.pairs.starts[example], self.pairs.middles[example]
        inputs = self.pairs.tokens[start : start + self.kept.inputs[example]]
        targets = self.pairs.tokens[middle : middle + self.kept.targets[example]]
        eos = self.tokenizer.eos
        end = [eos] if self.kept.ended[example] else []
        return np.append(inputs, eos).astype(np.int64), np.append(targets, end).astype(np.int64)


def pair_rows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    objective: TextToTextConfig,
    encoder: int,
    decoder: int,
    threads: int = 1,
) -> PairRows:
    """Rows of ``encoder`` (0: one stack) and ``decoder`` positions.

    Raises:
        ConfigError: positions too few for a token and its end.
        UserError: an example that is too long, if the objective refuses those.
    """
    _check_lengths(encoder, decoder)
    pairs = Pairs.of(examples, tokenizer, threads)
    kept = keep(pairs, encoder, decoder)
    if objective.too_long == "refuse" and kept.cut.any():
        first = int(np.argmax(kept.cut))
        raise UserError(
            f"data.paths: {examples[first].place} is too long, as {int(kept.cut.sum())} of "
            f"{len(examples)} examples are: {_size(pairs, first)} do not fit; raise "
            f"{'model.encoder_length or model.decoder_length' if encoder else 'model.length'}, or "
            "set objective.too_long = 'cut'"
        )
    if encoder:
        begin = _pack(kept.prompts, kept.answers, (encoder, decoder), objective.max_examples)
    else:
        none = np.zeros_like(kept.prompts)
        begin = _pack(none, kept.prompts + kept.answers, (0, decoder), objective.max_examples)
    return PairRows(
        pairs=pairs,
        tokenizer=tokenizer,
        kept=kept,
        begin=begin,
        encoder_length=encoder,
        decoder_length=decoder,
        max_examples=objective.max_examples,
        visible=objective.visible_inputs,
    )


def keep(pairs: Pairs, encoder: int, decoder: int) -> Kept:
    """What fits of every example alone in a row (see the rule above)."""
    inputs, targets = pairs.middles - pairs.starts[:-1], pairs.starts[1:] - pairs.middles
    if encoder:
        kept_inputs = np.minimum(inputs, encoder - 1)
        room = np.full_like(targets, decoder)
    else:
        kept_inputs = np.minimum(inputs, np.maximum(decoder // 2, decoder - targets - 1) - 1)
        room = decoder - kept_inputs - 1
    ended = targets + 1 <= room
    kept_targets = np.minimum(targets, room)
    return Kept(kept_inputs, kept_targets, ended, (kept_inputs < inputs) | ~ended)


def _pack(
    encoder: Int64[np.ndarray, " K"],
    decoder: Int64[np.ndarray, " K"],
    lengths: tuple[int, int],
    most: int,
) -> Int64[np.ndarray, " bounds"]:
    """The first example of every row, and the number of examples."""
    begin = [0]
    read = written = 0
    for example, (reads, writes) in enumerate(zip(encoder.tolist(), decoder.tolist(), strict=True)):
        full = read + reads > lengths[0] or written + writes > lengths[1]
        if full or example - begin[-1] == most:
            begin.append(example)
            read = written = 0
        read += reads
        written += writes
    return np.array([*begin, len(encoder)], dtype=np.int64)


def _check_lengths(encoder: int, decoder: int) -> None:
    # In one stack: a token and an end of each, or a half of the row could not hold them.
    least = {"encoder_length": (encoder, 2), "decoder_length": (decoder, 2)}
    if not encoder:
        least = {"length": (decoder, 4)}
    for name, (length, needed) in least.items():
        if length < needed:
            raise ConfigError(f"model.{name}", length, f"at least {needed} for text_to_text")


def _size(pairs: Pairs, example: int) -> str:
    start, middle, end = (
        int(at) for at in (pairs.starts[example], pairs.middles[example], pairs.starts[example + 1])
    )
    return f"{middle - start:,} tokens of inputs and {end - middle:,} of targets"


@final
class _Sheet:
    """Rows that are filled from the left, a segment at a time."""

    def __init__(self, rows: int, length: int) -> None:
        self.ids = np.zeros((rows, length), dtype=np.int64)
        self._segment = np.zeros_like(self.ids)
        self._position = np.zeros_like(self.ids)
        self._used = [0] * rows
        self._segments = [0] * rows

    def add(self, row: int, ids: Int64[np.ndarray, " n"]) -> slice:
        """Put ``ids`` behind what ``row`` holds, as its next segment; returns their places."""
        here = slice(self._used[row], self._used[row] + len(ids))
        self._segments[row] += 1
        self._used[row] = here.stop
        self.ids[row, here] = ids
        self._segment[row, here] = self._segments[row]
        self._position[row, here] = np.arange(len(ids))
        return here

    def stream(self, max_segments: int, visible: torch.Tensor | None = None) -> Stream:
        """The rows as they are."""
        segment = tensor(self._segment)
        return Stream(
            tensor(self.ids), segment > 0, segment, tensor(self._position), max_segments, visible
        )
