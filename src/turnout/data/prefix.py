"""Prefix language modelling (T5, 1910.10683, sections 3.2.1 and 3.3.1): text is split at a place
that is drawn uniformly, at least one token on each side, and the second part is predicted.

Text ``a b c d e`` split behind ``b``:

- with an encoder, the inputs are ``a b end``, the targets ``c d e end``, as T5's code ends both;
- in one stack the row is the causal one, which reads ``start a b c d`` to predict ``a b c d e``:
  ``start a b`` are visible to all of it, and ``c d e`` carry loss. The place that reads ``b`` is
  visible and carries loss, since it predicts ``c`` from the prefix alone.

Axes: B batch, L raw tokens of a row, S sequence, N tokens.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from turnout.config.errors import ConfigError
from turnout.data.keys import mix
from turnout.data.packing import PackedRows
from turnout.data.rows import Examples, RowSource, draw_below, padded, tensor
from turnout.data.side import Side
from turnout.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class CausalPrefixRows(RowSource):
    """Packed rows with a prefix in each segment, for one stack.

    A segment of one token has no prefix: the token is predicted.
    """

    rows: PackedRows
    seed: int

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; the splits are drawn from (seed, number, segment) alone."""
        examples = self.rows.read(index, number)
        prefix = tensor(self._prefix(examples, number))
        stream = examples.decoder
        return replace(
            examples,
            decoder=replace(stream, visible=stream.mask & (stream.position <= prefix)),
            target_mask=examples.target_mask & (stream.position >= prefix),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``: the tokens behind the prefixes."""
        return self.rows.text_at(index, self.read(index, number).target_mask.numpy())

    def _prefix(
        self, examples: Examples, number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, "B S"]:
        """Tokens in the prefix of each place's segment."""
        segment = examples.decoder.segment.numpy()
        every = np.arange(segment.max(initial=0) + 1)
        size = (segment[:, :, None] == every).sum(1)
        prefix = _split(size, mix(self.seed, number[:, None], every))
        return np.take_along_axis(prefix, segment, 1)


@dataclass(frozen=True)
class SplitRows(RowSource):
    """Chunks of ``length`` tokens of the joined documents, for an encoder and a decoder; a
    shorter rest is left out.

    As for span corruption, a chunk may hold the end of one document and the beginning of the next.
    Both streams have ``length`` positions: the longest part and its end of text.
    """

    side: Side
    tokenizer: Tokenizer
    length: int
    seed: int

    @property
    def num_rows(self) -> int:
        return self.side.num_tokens // self.length

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; the splits are drawn from (seed, number) alone."""
        raw = self.side.read(self._offsets(index)).astype(np.int64)
        prefix = self._prefix(number)
        place = np.arange(self.length)
        inputs = np.where(place == prefix[:, None], self.tokenizer.eos, raw)
        behind = np.minimum(place + prefix[:, None], self.length - 1)
        rest = self.length - prefix
        targets = np.take_along_axis(raw, behind, 1)
        targets = np.where(place == rest[:, None], self.tokenizer.eos, targets)
        targets = targets * (place <= rest[:, None])
        shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=self.tokenizer.pad)
        decoder = padded(shifted, rest + 1)
        return Examples(
            encoder=padded(inputs, prefix + 1),
            decoder=decoder,
            targets=tensor(targets),
            target_mask=decoder.mask.clone(),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``: the tokens behind the prefixes."""
        behind = np.arange(self.length) >= self._prefix(number)[:, None]
        return np.sort(self._offsets(index)[behind])

    def _prefix(self, number: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        return _split(np.full(len(number), self.length), mix(self.seed, number))

    def _offsets(self, index: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, "B L"]:
        return index[:, None] * self.length + np.arange(self.length)


def split_length(encoder: int, decoder: int) -> int:
    """Raw tokens of a row: however it is split, each part and its end fit into their stream.

    Raises:
        ConfigError: a stream too short for a part of one token and its end.
    """
    for name, length in (("encoder_length", encoder), ("decoder_length", decoder)):
        if length < 2:
            raise ConfigError(f"model.{name}", length, "at least 2 for a prefix and what follows")
    return min(encoder, decoder)


def _split(size: Int64[np.ndarray, "*N"], key: Int64[np.ndarray, "*N"]) -> Int64[np.ndarray, "*N"]:
    """Tokens before the split: from 1 to ``size - 1``, or none where there are fewer than 2."""
    return np.where(size > 1, 1 + draw_below(np.maximum(size - 1, 1), key), 0)
