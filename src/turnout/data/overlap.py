"""How much of the held-out text stands in the training text too, word for word.

Axes: N bytes, P sampled positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from turnout.data.keys import mix
from turnout.data.progress import Progress
from turnout.data.side import SideText

SHINGLE = 50
POSITIONS = 4096
_SEED = 0x6F7665726C6170
_BASE = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing
_FILTER_BITS = 18
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Overlap:
    """``found`` of ``asked`` shingles of 50 bytes, at sampled positions of the held-out text,
    stand somewhere in the training text."""

    asked: int
    found: int

    @property
    def share(self) -> float:
        return self.found / max(self.asked, 1)


def measure(train: SideText, held_out: SideText, progress: Progress) -> Overlap:
    """Look for up to 4,096 shingles of the held-out documents in all training documents.

    Positions are drawn evenly over all places of the held-out text at which a shingle fits into
    its document. Shingles are compared by a 64-bit hash.
    """
    wanted, count = np.unique(_sample(held_out), return_counts=True)
    found = np.zeros(len(wanted), dtype=bool)
    progress.begin("comparing the two sides", train.num_bytes)
    try:
        for block in _blocks(train):
            found |= _present(wanted, shingles(block))
            progress.advance(len(block))
    finally:
        progress.end()
    return Overlap(int(count.sum()), int(count[found].sum()))


def shingles(text: UInt8[np.ndarray, " N"]) -> UInt64[np.ndarray, " P"]:
    """The hash of every run of 50 bytes: ``sum (1 + t[i]) * b^(49 - i)`` modulo 2^64.

    Runs of 2, 4, .. 32 bytes are hashed from two of half the length; 50 is 32 and 16 and 2.
    """
    if len(text) < SHINGLE:
        return np.empty(0, np.uint64)
    runs = {1: text.astype(np.uint64) + np.uint64(1)}
    power = np.array([_BASE], np.uint64)  # b to the length of the run
    powers = {1: power}
    for length in (1, 2, 4, 8, 16):
        run = runs[length]
        runs[2 * length] = run[:-length] * powers[length] + run[length:]
        powers[2 * length] = powers[length] * powers[length]
    places = len(text) - SHINGLE + 1
    first, second, third = runs[32], runs[16][32:], runs[2][48:]
    both = first[:places] * powers[16] + second[:places]
    return both * powers[2] + third[:places]


def _sample(held_out: SideText) -> UInt64[np.ndarray, " P"]:
    """Hashes of shingles at sampled places, in order of the places."""
    fitting = np.maximum(held_out.ends - held_out.begins - SHINGLE + 1, 0)
    ends = np.cumsum(fitting)
    total = int(ends[-1]) if len(ends) else 0
    drawn = mix(_SEED, np.arange(POSITIONS)).view(np.uint64) % np.uint64(max(total, 1))
    place = np.arange(total) if total <= POSITIONS else np.sort(drawn.astype(np.int64))
    document = np.searchsorted(ends, place, side="right")
    within = place - ends[document] + fitting[document]
    hashes = [np.empty(0, np.uint64)]
    for each in np.unique(document).tolist():
        here = within[document == each]
        text = np.frombuffer(held_out[each], np.uint8)
        hashes.append(shingles(text[here[:, None] + np.arange(SHINGLE)].ravel())[::SHINGLE])
    return np.concatenate(hashes)


def _blocks(side: SideText) -> Iterator[UInt8[np.ndarray, " N"]]:
    """Documents in blocks of about 1 MiB that share the bytes where a shingle would be cut."""
    for document in side:
        text = np.frombuffer(document, np.uint8)
        for at in range(0, len(text), _BLOCK):
            yield text[at : at + _BLOCK + SHINGLE - 1]


def _present(
    wanted: UInt64[np.ndarray, " P"], hashes: UInt64[np.ndarray, " N"]
) -> Bool[np.ndarray, " P"]:
    """Which of ``wanted`` (sorted) are among ``hashes``; most are ruled out by their first bits."""
    shift = np.uint64(64 - _FILTER_BITS)
    possible = np.zeros(1 << _FILTER_BITS, dtype=bool)
    possible[wanted >> shift] = True
    near = hashes[possible[hashes >> shift]]
    return np.isin(wanted, near)
