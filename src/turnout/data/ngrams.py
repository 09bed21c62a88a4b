"""Baselines that every model should beat: interpolated byte n-grams and token frequencies.

Axes: N bytes or tokens, U distinct n-grams.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt64

from turnout.config.errors import UserError

MAX_ORDER = 7  # a context and its next byte fit into 64 bits


def bits_per_byte(train: Sequence[bytes], held_out: Sequence[bytes], order: int) -> float:
    """Bits per byte of the held-out documents under the n-gram model of order ``order``."""
    return bits_by_order(train, held_out, order)[-1]


def bits_by_order(
    train: Sequence[bytes],
    held_out: Sequence[bytes],
    order: int,
    positions: Int64[np.ndarray, " N"] | None = None,
) -> tuple[float, ...]:
    """Bits per byte of the models of order 0 (byte frequencies) to ``order``.

    The model of order n sees the n bytes before, never across the start of a document. It is
    Witten and Bell's interpolation (Witten and Bell 1991, method C): after the context h, seen
    c(h) times with t(h) different next bytes::

        p_n(b | h) = (c(h b) + t(h) * p_{n-1}(b | h without its first byte)) / (c(h) + t(h))

    below order 0 stands 1/256, and an unseen context leaves p_{n-1} as it is.

    Args:
        train: documents to count.
        held_out: documents to score.
        order: from 0 to 7.
        positions: score only these offsets of the joined held-out documents, all by default;
            their contexts are the whole text.

    Raises:
        UserError: an order outside 0 to 7, or no byte to count or to score.
    """
    if not 0 <= order <= MAX_ORDER:
        raise UserError(f"n-gram order {order}: must be from 0 to {MAX_ORDER}")
    chosen = np.arange(sum(map(len, held_out))) if positions is None else positions
    if not any(train) or not len(chosen):
        raise UserError("an n-gram model needs text to count and text to score; one side is empty")
    probability = np.full(len(chosen), 1 / 256)
    bits = []
    for seen, asked in zip(_grams(train, order), _grams(held_out, order), strict=True):
        table = _count(seen.key[seen.whole])
        # Near the start of a document the context is shorter: the lower order's answer stands.
        whole = asked.whole[chosen]
        probability[whole] = _interpolate(table, asked.key[chosen][whole], probability[whole])
        bits.append(float(-np.log2(probability).mean()))
    return tuple(bits)


@dataclass(frozen=True)
class _Grams:
    """For every byte of joined documents: the bytes before it, the nearest lowest, and below them
    the byte itself, so that the n-grams of one context sort together; ``whole`` where so many
    bytes stand before it in its document."""

    key: UInt64[np.ndarray, " N"]
    whole: Bool[np.ndarray, " N"]


@dataclass(frozen=True)
class _Table:
    """Sorted distinct n-grams, and how many n-grams of the text sort before each of them."""

    gram: UInt64[np.ndarray, " U"]
    before: Int64[np.ndarray, " U+1"]


def _grams(documents: Sequence[bytes], order: int) -> Iterator[_Grams]:
    """The n-grams of contexts of 0, 1, .. ``order`` bytes."""
    text = np.frombuffer(b"".join(documents), dtype=np.uint8)
    starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    key = text.astype(np.uint64)
    whole = np.ones(len(text), dtype=bool)
    yield _Grams(key, whole)
    for context in range(1, order + 1):
        shifted = text[:-context].astype(np.uint64) << np.uint64(8 * context)
        key[context:] |= shifted
        # Byte context - 1 of a document is the last that lacks this context. In a shorter
        # document this is a byte of the next one, which lacks it too.
        short = starts + context - 1
        whole[short[short < len(text)]] = False
        yield _Grams(key, whole)


def _count(keys: UInt64[np.ndarray, " N"]) -> _Table:
    keys = np.sort(keys)
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.arange(0)
    return _Table(keys[first], np.append(first, len(keys)))


def _interpolate(
    table: _Table, key: UInt64[np.ndarray, " N"], lower: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    byte = np.uint64(255)
    context = key & ~byte
    low = np.searchsorted(table.gram, context)
    high = np.searchsorted(table.gram, context | byte, side="right")
    at = np.searchsorted(table.gram, key)
    behind = np.searchsorted(table.gram, key, side="right")
    count = table.before[behind] - table.before[at]
    total, kinds = table.before[high] - table.before[low], high - low
    share = (count + kinds * lower) / np.maximum(total + kinds, 1)
    return np.where(kinds > 0, share, lower)


def unigram_nats(
    train: Integer[np.ndarray, " N"], held_out: Integer[np.ndarray, " M"], vocab_size: int
) -> float:
    """Mean nats of held-out tokens predicted by their frequency in ``train`` plus one each."""
    counts = np.bincount(train, minlength=vocab_size) + 1
    return float(-np.log(counts[held_out] / counts.sum()).mean())
