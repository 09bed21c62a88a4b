"""Rows of several sources in one order, at fixed rates.

The order is made of blocks of one size. Every block holds each source's quota of rows, at places
that are drawn from (seed, block). So row ``block * size + slot`` is the row number ``block * quota
+ rank`` of its source, where rank counts the source's slots before it: no state, and a source goes
through all its rows before it repeats one.

Axes: B batch, S sequence, J sources, N rows of a block.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import pad
from torch.utils import _pytree

from turnout.config.errors import ConfigError
from turnout.config.mixture import MixtureConfig
from turnout.data.batch import Stream
from turnout.data.keys import mix, permutation
from turnout.data.order import RowOrder
from turnout.data.rows import Examples, RowSource


def rates(mixture: MixtureConfig, rows: Sequence[int]) -> tuple[float, ...]:
    """The share of each source, of which there are ``rows``: ``min(n, cap)^(1 / T)``, or the
    weights, divided by their sum (T5, 1910.10683, section 3.5.2; n counts rows here)."""
    given = [source.weight for source in mixture.sources]
    cap = max(rows) if mixture.cap is None else mixture.cap
    parts = [
        min(count, cap) ** (1 / mixture.temperature) if weight is None else weight
        for count, weight in zip(rows, given, strict=True)
    ]
    return tuple(part / sum(parts) for part in parts)


def quotas(shares: Sequence[float], size: int) -> tuple[int, ...]:
    """Whole numbers that add up to ``size``, by largest remainder; ties go to the first source."""
    exact = [share * size for share in shares]
    whole = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda j: whole[j] - exact[j])
    for j in by_remainder[: size - sum(whole)]:
        whole[j] += 1
    return tuple(whole)


def block_quotas(mixture: MixtureConfig, rows: Sequence[int]) -> tuple[int, ...]:
    """Rows of each source in a block.

    Raises:
        ConfigError: a source of which no row would ever be read.
    """
    shares = rates(mixture, rows)
    found = quotas(shares, mixture.block)
    for source, share, quota in zip(mixture.sources, shares, found, strict=True):
        if quota == 0:
            raise ConfigError(
                "data.mixture.block",
                mixture.block,
                f"large enough that source {source.name!r}, {share:.2g} of the rows, gets one",
                "raise it, raise data.mixture.temperature, set data.mixture.cap or give weights",
            )
    return found


def source_seed(seed: int, name: str) -> int:
    """A seed of its own for a source, whatever stands beside it."""
    digest = hashlib.sha256(name.encode()).digest()
    return int(mix(seed, int.from_bytes(digest[:8], "little")))


@final
@dataclass(frozen=True)
class Mixture(RowOrder):
    """Rows of ``parts``, ``quotas`` of them in every block; all have one shape (``Shaped``)."""

    parts: tuple[RowOrder, ...]
    quotas: tuple[int, ...]
    seed: int

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.parts)

    def read(self, number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowOrder.read``."""
        source, place = self.places(number)
        found, order = [], []
        for each in np.unique(source).tolist():
            here = np.flatnonzero(source == each)
            found.append(self.parts[each].read(place[here]))
            order.append(here)
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
        trees = [_pytree.tree_flatten(examples) for examples in found]
        columns = zip(*(leaves for leaves, _ in trees), strict=True)
        leaves = [_joined(column, back) for column in columns]
        joined: Examples = _pytree.tree_unflatten(leaves, trees[0][1])
        return joined

    def labels(self, number: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """The number of each row's source."""
        return self.places(number)[0]

    def places(
        self, number: Int64[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Each row's source, and its number within that source."""
        block, slot = np.divmod(number, sum(self.quotas))
        source, rank = np.empty_like(number), np.empty_like(number)
        for each in np.unique(block).tolist():
            here = block == each
            sources, ranks = _block(self.quotas, self.seed, each)
            source[here], rank[here] = sources[slot[here]], ranks[slot[here]]
        return source, block * np.array(self.quotas)[source] + rank


@dataclass(frozen=True)
class RowShape:
    """What rows must have in common to stand in one batch.

    Attributes:
        encoder, decoder: positions of the streams; 0 where there is no encoder.
        segments: bound on the segments of a row.
        visible: whether the decoder's streams say what is visible.
    """

    encoder: int
    decoder: int
    segments: int
    visible: bool

    @staticmethod
    def common(sources: Sequence[RowSource]) -> "RowShape":
        """The least shape that holds the rows of all ``sources``."""
        first = np.zeros(1, dtype=np.int64)
        found = [source.read(first, first) for source in sources]
        streams = [s for one in found for s in (one.encoder, one.decoder) if s is not None]
        return RowShape(
            encoder=max(0 if e.encoder is None else e.encoder.ids.shape[1] for e in found),
            decoder=max(e.decoder.ids.shape[1] for e in found),
            segments=max(stream.max_segments for stream in streams),
            visible=any(e.decoder.visible is not None for e in found),
        )


@dataclass(frozen=True)
class Shaped(RowSource):
    """The rows of a source, padded on the right to ``shape``."""

    rows: RowSource
    shape: RowShape

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def read(self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]) -> Examples:
        """See ``RowSource.read``."""
        examples, shape = self.rows.read(index, number), self.shape
        decoder = _widened(examples.decoder, shape.decoder, shape.segments)
        if shape.visible and decoder.visible is None:
            decoder = replace(decoder, visible=torch.zeros_like(decoder.mask))
        encoder = examples.encoder
        more = shape.decoder - examples.targets.shape[1]
        return Examples(
            decoder=decoder,
            targets=pad(examples.targets, (0, more)),
            target_mask=pad(examples.target_mask, (0, more)),
            encoder=encoder and _widened(encoder, shape.encoder, shape.segments),
        )

    def predicted(
        self, index: Int64[np.ndarray, " B"], number: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " N"]:
        """See ``RowSource.predicted``."""
        return self.rows.predicted(index, number)


def _widened(stream: Stream, width: int, segments: int) -> Stream:
    wider: Stream = _pytree.tree_map(lambda leaf: _padded(leaf, width), stream)
    return replace(wider, max_segments=segments)


def _padded(leaf: Tensor | None, width: int) -> Tensor | None:
    return None if leaf is None else pad(leaf, (0, width - leaf.shape[1]))


def _joined(column: tuple[Tensor | None, ...], order: Tensor) -> Tensor | None:
    parts = [part for part in column if part is not None]
    return torch.cat(parts).index_select(0, order) if parts else None


@lru_cache(maxsize=64)
def _block(
    quotas: tuple[int, ...], seed: int, block: int
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """The source of every slot of a block, and how many slots of that source come before."""
    size = sum(quotas)
    source = np.repeat(np.arange(len(quotas)), quotas)[permutation(size, seed, block)]
    first = np.cumsum([0, *quotas[:-1]])
    by_source = np.argsort(source, kind="stable")
    rank = np.empty_like(source)
    rank[by_source] = np.arange(size) - first[source[by_source]]
    return source, rank
