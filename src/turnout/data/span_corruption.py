"""T5's span corruption (1910.10683, section 3.1.4): the encoder reads the text with spans replaced
by sentinels, the decoder writes each sentinel and what stood there.

Text ``a b c d e f`` with the noise spans ``b c`` and ``f``: the inputs are ``a <0> d e <1> end``,
the targets ``<0> b c <1> f end``.

Axes: B batch, L raw tokens of a row, J spans of a row, S sequence, R rows, N tokens.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer

from turnout.config.errors import ConfigError, UserError, require
from turnout.config.train import SpanConfig
from turnout.data.keys import mix
from turnout.data.rows import Examples, RowSource, tensor, whole
from turnout.data.side import Side
from turnout.data.tokenizers import Tokenizer

_NOISE, _TEXT = 0, 1  # which of a row's two partitions a random number is for


@dataclass(frozen=True)
class SpanLengths:
    """Numbers of one row: raw tokens, noise tokens among them, spans, and the lengths read and
    written, an end of text in each."""

    raw: int
    noise: int
    spans: int

    @property
    def inputs(self) -> int:
        return self.raw - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        return self.noise + self.spans + 1


def span_lengths(raw: int, objective: SpanConfig) -> SpanLengths:
    """How ``raw`` tokens (at least 2) are corrupted.

    ``noise = round(density * raw)``, between 1 and ``raw - 1``; ``spans = round(noise / mean)``,
    at least 1 and at most what gives each span a token of noise and one of text before it.
    T5's code rounds in float32 where it draws the mask and in double precision where it plans the
    lengths, and the two differ at 39 lengths below 4,097; here one function answers both.
    """
    noise = min(max(round(raw * objective.noise_density), 1), raw - 1)
    spans = min(max(round(noise / objective.mean_span), 1), noise, raw - noise)
    return SpanLengths(raw, noise, spans)


def fit(inputs: int, objective: SpanConfig, sentinels: int) -> SpanLengths:
    """The most raw tokens whose inputs fit into ``inputs`` positions; 512 takes 568.

    Raises:
        ConfigError: not even two tokens fit, or so many that the ``sentinels`` run out.
    """
    if inputs < 3:
        raise ConfigError("model.encoder_length", inputs, "at least 3 for span corruption")
    # A token more never shortens the inputs, and they hold all that is not noise.
    beyond = int((inputs + 2) / (1 - objective.noise_density)) + 2
    raw = bisect_right(
        range(beyond), inputs, lo=2, key=lambda count: span_lengths(count, objective).inputs
    )
    best = span_lengths(raw - 1, objective)
    require(
        best.spans <= sentinels,
        "model.encoder_length",
        inputs,
        f"short enough for {sentinels} spans, as many as the vocabulary has sentinels "
        f"(it makes {best.spans})",
        "lower it or raise objective.mean_span",
    )
    return best


@dataclass(frozen=True)
class SpanRows(RowSource):
    """Chunks of ``lengths.raw`` tokens of the joined documents; a shorter rest is left out.

    As in T5 a chunk may hold the end of one document and the beginning of the next, with nothing
    between them, and is one segment. There is no padding.
    """

    side: Side
    tokenizer: Tokenizer
    lengths: SpanLengths
    seed: int

    @property
    def num_rows(self) -> int:
        return self.side.num_tokens // self.lengths.raw

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``; the spans are drawn from (seed, number) alone."""
        raw = self.side.read(self._offsets(index))
        runs = draw_spans(self.lengths, self.seed, number)
        inputs, targets = corrupt(raw, runs, self.tokenizer)
        start = np.full_like(targets[:, :1], self.tokenizer.pad)
        shifted = np.concatenate([start, targets[:, :-1]], axis=1)
        return Examples(
            encoder=whole(inputs),
            decoder=whole(shifted),
            targets=tensor(targets),
            target_mask=torch.ones(targets.shape, dtype=torch.bool),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``: the tokens inside the spans."""
        noise = draw_spans(self.lengths, self.seed, number) % 2 == 1
        return np.sort(self._offsets(index)[noise])

    def _offsets(self, index: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, "B L"]:
        return index[:, None] * self.lengths.raw + np.arange(self.lengths.raw)


def span_rows(
    side: Side, tokenizer: Tokenizer, lengths: SpanLengths, seed: int, *, name: str = "training"
) -> SpanRows:
    """Rows over the joined documents.

    Raises:
        UserError: the text is shorter than one row.
    """
    if side.num_tokens < lengths.raw:
        raise UserError(
            f"data.paths: {side.num_tokens:,} tokens of {name} text are too short for one row of "
            f"{lengths.raw:,}; give more text or lower model.encoder_length"
        )
    return SpanRows(side, tokenizer, lengths, seed)


def draw_spans(
    lengths: SpanLengths, seed: int, number: Int64[np.ndarray, " B"]
) -> Int64[np.ndarray, "B L"]:
    """The run of each token: 0, 2, .. are text and 1, 3, .. noise, every run at least one token.

    Both counts are split into ``spans`` positive parts, all splits being equally likely, by
    choosing which tokens begin a part.
    """
    text = _partition(lengths.raw - lengths.noise, lengths.spans, mix(seed, number, _TEXT))
    noise = _partition(lengths.noise, lengths.spans, mix(seed, number, _NOISE))
    sizes = np.stack([text, noise], axis=2).reshape(len(number), 2 * lengths.spans)
    runs = np.broadcast_to(np.arange(2 * lengths.spans), sizes.shape)
    return np.repeat(runs.ravel(), sizes.ravel()).reshape(len(number), lengths.raw)


def _partition(count: int, parts: int, key: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, "B J"]:
    draws = mix(key[:, None], np.arange(1, count))
    cuts = np.sort(np.argsort(draws, axis=1, kind="stable")[:, : parts - 1] + 1, axis=1)
    return np.diff(cuts, axis=1, prepend=0, append=count)


def corrupt(
    raw: Integer[np.ndarray, "B L"], runs: Int64[np.ndarray, "B L"], tokenizer: Tokenizer
) -> tuple[Int64[np.ndarray, "B inputs"], Int64[np.ndarray, "B targets"]]:
    """Inputs and targets of rows whose tokens belong to ``runs`` (see ``draw_spans``)."""
    noise = runs % 2 == 1
    # The text run 2i precedes the noise run 2i + 1, so its place in the targets is sentinel i's.
    return _collapse(raw, runs, noise, tokenizer), _collapse(raw, runs, ~noise, tokenizer)


def _collapse(
    raw: Integer[np.ndarray, "B L"],
    runs: Int64[np.ndarray, "B L"],
    away: Bool[np.ndarray, "B L"],
    tokenizer: Tokenizer,
) -> Int64[np.ndarray, "B S"]:
    """Each run of ``away`` becomes its sentinel; an end of text follows the row."""
    first = np.diff(runs, axis=1, prepend=-1) > 0
    sentinel = tokenizer.sentinel(0) - runs // 2
    values = np.where(away, sentinel, raw)[~away | first].reshape(len(raw), -1)
    end = np.full((len(raw), 1), tokenizer.eos)
    return np.concatenate([values, end], axis=1)
