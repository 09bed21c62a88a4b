"""Which experts stand on which rank, so that the fullest rank has as few rows as can be.

Every rank has as many places as any other; a layer's step ends when its fullest rank has computed
its rows. Axes: C micro-batches, E experts, X places of all ranks, R ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

Rows = Int64[np.ndarray, "C E"]


@dataclass(frozen=True)
class Arrangement:
    """Whose copy stands in each place, and on which rank the place is; copies of one expert stand
    in places that follow each other, and deal its rows out evenly.

    ``ranks`` may have more places than these: then some stand empty.
    """

    expert: Int64[np.ndarray, " X"]
    rank: Int64[np.ndarray, " X"]
    ranks: int

    def dealt(self, rows: Rows) -> Int64[np.ndarray, "C X"]:
        """Rows that come to each place; the first copies of an expert take what is left over."""
        copies = np.bincount(self.expert, minlength=rows.shape[1])[self.expert]
        first = np.searchsorted(self.expert, self.expert)
        number = np.arange(len(self.expert)) - first
        found: np.ndarray = (rows[:, self.expert] + copies - 1 - number) // copies
        return found

    def arrived(self, rows: Rows) -> Int64[np.ndarray, "C R"]:
        """Rows that come to each rank."""
        return summed(self.dealt(rows), self.rank, self.ranks)

    def fullest(self, rows: Rows) -> Int64[np.ndarray, " C"]:
        """Rows that come to the fullest rank."""
        found: np.ndarray = self.arrived(rows).max(1)
        return found

    def by_rank(self) -> tuple[tuple[int, ...], ...]:
        """The experts of each rank."""
        return tuple(tuple(self.expert[self.rank == rank].tolist()) for rank in range(self.ranks))


def contiguous(experts: int, ranks: int) -> Arrangement:
    """The first experts on the first rank, and so on: as they are trained."""
    each = np.arange(experts)
    return Arrangement(each, each // (experts // ranks), ranks)


def placed(rows: Rows, ranks: int) -> Arrangement:
    """Each expert once, where the sum over micro-batches of the rows of the fullest rank is small.

    The fullest expert in turn goes to the emptiest rank with a place (longest processing time
    first); from there, and from the contiguous order, two experts change places while that helps.
    The better end is taken, so that it is never above the contiguous order on ``rows``.
    """
    plain = contiguous(rows.shape[1], ranks)
    starts = (plain.rank, _longest_first(rows, ranks, rows.shape[1] // ranks))
    ends = [Arrangement(plain.expert, _swapped(rows, start, ranks), ranks) for start in starts]
    return min(ends, key=lambda end: int(end.fullest(rows).sum()))


def replicated(rows: Rows, alone: Arrangement, spare: int) -> Arrangement:
    """With ``spare`` more places on each rank than ``alone``, for copies of the fullest experts.

    Where that is no better on ``rows`` than ``alone``, the spare places stand empty.
    """
    ranks = alone.ranks
    expert = np.repeat(np.arange(rows.shape[1]), _copies(rows.sum(0), ranks, spare))
    if len(expert) == rows.shape[1]:
        return alone
    unplaced = Arrangement(expert, np.zeros_like(expert), ranks)
    dealt = unplaced.dealt(rows)
    start = _longest_first(dealt, ranks, rows.shape[1] // ranks + spare)
    found = Arrangement(expert, _swapped(dealt, start, ranks), ranks)
    return min(alone, found, key=lambda end: int(end.fullest(rows).sum()))


def bound(rows: Rows, ranks: int) -> np.ndarray:
    """What no placement without copies goes below, by micro-batch: the mean of the ranks, or the
    fullest expert. Float64 [C]."""
    found: np.ndarray = np.maximum(rows.sum(1) / ranks, rows.max(1))
    return found


def summed(
    rows: Int64[np.ndarray, "C X"], rank: Int64[np.ndarray, " X"], ranks: int
) -> Int64[np.ndarray, "C R"]:
    """Rows of each rank from those of its places."""
    found = np.zeros((ranks, len(rows)), dtype=np.int64)
    np.add.at(found, rank, rows.T)
    return found.T


def _copies(totals: Int64[np.ndarray, " E"], ranks: int, spare: int) -> Int64[np.ndarray, " E"]:
    """Copies of each expert: one more for whose copies have most rows, at most one a rank."""
    copies = np.ones(len(totals), dtype=np.int64)
    for _ in range(ranks * spare):
        share = np.where(copies < ranks, totals / copies, -1.0)
        fullest = int(share.argmax())
        if share[fullest] <= 0:
            break
        copies[fullest] += 1
    return copies


def _longest_first(
    rows: Int64[np.ndarray, "C X"], ranks: int, room: int
) -> Int64[np.ndarray, " X"]:
    """The rank of each place's rows: the most rows first, each to the emptiest rank with room."""
    totals, rank = rows.sum(0), np.zeros(rows.shape[1], dtype=np.int64)
    load, left = np.zeros(ranks, dtype=np.int64), np.full(ranks, room)
    for place in np.argsort(-totals, kind="stable"):
        chosen = int(np.where(left > 0, load, np.iinfo(np.int64).max).argmin())
        rank[place] = chosen
        load[chosen] += totals[place]
        left[chosen] -= 1
    return rank


def _swapped(
    rows: Int64[np.ndarray, "C X"], rank: Int64[np.ndarray, " X"], ranks: int
) -> Int64[np.ndarray, " X"]:
    """After the best exchanges of two places, one after the other, until none of them helps."""
    rank = rank.copy()
    while True:
        load = summed(rows, rank, ranks)
        now = int(load.max(1).sum())
        better = (pair for pair, waited in _exchanges(rows, rank, load) if waited < now)
        pair = next(better, None)
        if pair is None:
            return rank
        rank[list(pair)] = rank[list(reversed(pair))]


def _exchanges(
    rows: Int64[np.ndarray, "C X"], rank: Int64[np.ndarray, " X"], load: Int64[np.ndarray, "C R"]
) -> Iterator[tuple[tuple[int, int], int]]:
    """For every rank that is the fullest of a micro-batch its best exchange with another, and the
    rows of the fullest ranks after it. No other exchange can help."""
    fullest, often = np.unique(load.argmax(1), return_counts=True)
    for from_ in fullest[np.argsort(-often, kind="stable")]:
        others = np.flatnonzero(rank != from_)
        if not len(others):
            return
        to = rank[others]
        rest = _rest(load, int(from_))[:, to]
        best, pair = np.iinfo(np.int64).max, (0, 0)
        for place in np.flatnonzero(rank == from_):
            more = rows[:, others] - rows[:, [place]]
            after = np.maximum(load[:, [from_]] + more, load[:, to] - more)
            waited = np.maximum(after, rest).sum(0)
            at = int(waited.argmin())
            if waited[at] < best:
                best, pair = int(waited[at]), (int(place), int(others[at]))
        yield pair, best


def _rest(load: Int64[np.ndarray, "C R"], without: int) -> Int64[np.ndarray, "C R"]:
    """The fullest of all ranks but ``without`` and the rank of each column."""
    left = load.copy()
    left[:, without] = -1
    first = left.argmax(1)
    rows = np.arange(len(left))
    found = np.repeat(left[rows, first][:, None], load.shape[1], axis=1)
    left[rows, first] = -1
    found[rows, first] = left.max(1)
    return found
