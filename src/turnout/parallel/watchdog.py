"""Says which rank stands where when ranks wait for each other.

Each rank has a thread that writes every second into a key-value store where its main thread is and
which collective it waits in, by torch's own record of them. Rank 0 reads what all have written, or
rank 1 where rank 0 is silent. Nobody is stopped for that: a rank may be right to take its time.

A rank that leaves the others after a failure leaves word of it, for those that are not in a
collective, which breaks: they compute, or wait for a message. One that was killed leaves none: it
is taken for gone where it is silent and this process was asked to stop, as torchrun asks all that
are left. A process leaves too, then, if its main thread does not do so by itself.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, final

from torch._C import _distributed_c10d
from torch.distributed.distributed_c10d import Store

PATIENCE = 10.0  # seconds
_RECORDS = "TORCH_FR_BUFFER_SIZE"
_PACKAGE = Path(__file__).parent.parent
_CONSULTING = "checkpoint/ranks.py"  # where ranks wait for each other without a collective
_LEFT = "left"  # the key of the word of the first rank that left
_FAREWELL = 2.0  # seconds that it may take to leave it
_GRACE = 2.0  # seconds for the main thread to leave by itself, when others have


@dataclass(frozen=True)
class Standing:
    """Where a rank is.

    Attributes:
        place: file, line and function of its main thread.
        still: seconds since that was another place.
        waits: the collective that it is in, and which one of its group; empty if it is in none.
        since: seconds that it has waited in it.
        beat: how often it has said so.
    """

    place: str
    still: float
    waits: str
    since: float
    beat: int


def record_collectives() -> None:
    """Have torch remember the last collectives; called before there is a process group."""
    os.environ.setdefault(_RECORDS, "64")


def report(standings: Mapping[int, Standing | None], patience: float) -> str:
    """One line on who waits for whom; empty while nobody has waited for ``patience`` seconds.

    Args:
        standings: by rank; None for one that is silent.
    """
    waiting: dict[str, list[int]] = {}
    others: list[str] = []
    longest = 0.0
    for rank, standing in sorted(standings.items()):
        if standing is None:
            others.append(f"rank {rank} says nothing: it is gone, or stopped")
        elif standing.waits:
            waiting.setdefault(f"{standing.waits}, at {standing.place}", []).append(rank)
            longest = max(longest, standing.since)
        else:
            others.append(f"rank {rank} is at {standing.place}, for {standing.still:.0f} s")
    if longest < patience:
        return ""
    waits = [f"{_ranks(ranks)} in {where}" for where, ranks in waiting.items()]
    found = "; ".join([*others[:8], *(["and more"] if len(others) > 8 else [])])
    return f"waiting for {longest:.0f} s: {'; '.join(waits)}" + (f"; {found}" if found else "")


@final
class Watchdog:
    """Watches from its start to its stop, or while it is entered.

    Args:
        store: one that no other thread uses: a ``clone()``, with a prefix of its own.
        rank, size: this process's number, and how many there are.
        say: is called with each line, on one rank.
        patience: seconds that a rank may wait before a line; the next one comes after twice as
            long.
        every: seconds between two looks.
        stopping: whether this process was asked to stop.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        say: Callable[[str], None],
        patience: float = PATIENCE,
        every: float = 1.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._say, self._patience, self._every = say, patience, every
        self._stopping = stopping
        self._absent = self._farewell = ""
        self._since = math.inf
        self._leave: Callable[[str], None] = _stay
        self._main = threading.get_ident()
        self._beat, self._place, self._moved = 0, "", time.monotonic()
        self._heard: dict[int, tuple[int, float]] = {}
        self._next = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self, leave: Callable[[str], None] | None = None) -> "Watchdog":
        """From now on; called by the main thread, which is the one that is watched.

        Args:
            leave: ends this process, where its main thread goes on after another one has left.
        """
        self._leave = leave or _stay
        self._publish()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Say nothing any more; does not wait for a store that does not answer."""
        self._stop.set()
        self._thread.join(_FAREWELL)

    def absent(self) -> str:
        """Who has left for good, and why, as far as it is known; empty while nobody has."""
        return self._absent

    def leave(self, why: str) -> None:
        """Stop, and leave word that this rank has left the others; only the first word counts."""
        self._farewell = f"rank {self._rank} has left: {why}"
        self.stop()

    def __enter__(self) -> "Watchdog":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _watch(self) -> None:
        try:
            while not self._stop.wait(self._every):
                self._publish()
                if self._rank <= 1:
                    self._look()
                self._follow()
            if self._farewell:
                self._store.compare_set(_LEFT, "", self._farewell)
        except RuntimeError:
            return  # the store has gone, and with it the run

    def _follow(self) -> None:
        """Leave where another rank has."""
        self._absent = self._absent or self._missing()
        if self._absent:
            self._since = min(self._since, time.monotonic())
            if time.monotonic() - self._since > _GRACE:
                self._leave(self._absent)

    def _missing(self) -> str:
        """Of the ranks that this one may wait for: the first waits for all, all for the first."""
        if self._store.check([_LEFT]):
            return self._store.get(_LEFT).decode()
        if not self._stopping():
            return ""
        others = range(1, self._size) if self._rank == 0 else (0,)
        silent = [rank for rank in others if self._heard_of(rank) is None]
        return f"{_ranks(silent)} says nothing: it is gone, or stopped" if silent else ""

    def _publish(self) -> None:
        place, now = _place_of(self._main), time.monotonic()
        if place != self._place:
            self._place, self._moved = place, now
        self._beat += 1
        waits, since = _pending()
        still = now - self._moved
        if not waits and _CONSULTING in place:
            waits, since = "a consultation", still
        standing = Standing(place, still, waits, since, self._beat)
        self._store.set(str(self._rank), json.dumps(asdict(standing)))

    def _look(self) -> None:
        standings = {rank: self._heard_of(rank) for rank in range(self._size)}
        if self._rank == 1 and standings[0] is not None:
            return
        text = report(standings, self._next)
        if text:
            self._say(text)
            self._next *= 2
        elif not report(standings, self._patience):
            self._next = self._patience

    def _heard_of(self, rank: int) -> Standing | None:
        """What a rank says; None if it has not said anything new for a while."""
        now = time.monotonic()
        if not self._store.check([str(rank)]):
            beat, since = self._heard.setdefault(rank, (0, now))
            return None if now - since > 5 * self._every else Standing("its start", 0, "", 0, beat)
        standing = Standing(**json.loads(self._store.get(str(rank))))
        beat, since = self._heard.get(rank, (0, now))
        if standing.beat != beat:
            self._heard[rank] = standing.beat, now
        elif now - since > 5 * self._every:
            return None
        return standing


def _stay(text: str) -> None:
    """Nothing: the process goes on."""


def _place_of(thread: int) -> str:
    """The innermost line of ours that a thread is in."""
    frame = sys._current_frames().get(thread)
    return _first_of_ours(frame) or (_text(frame) if frame is not None else "its end")


def _first_of_ours(frame: FrameType | None) -> str:
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(_PACKAGE):
            return _text(frame)
        frame = frame.f_back
    return ""


def _text(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    name = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else path.name
    return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"


def _pending() -> tuple[str, float]:
    """The collective that this process waits in, and for how many seconds."""
    record: dict[str, Any] = json.loads(_distributed_c10d._dump_fr_trace_json())  # type: ignore[attr-defined]
    for entry in record.get("entries", ()):  # none before the first collective
        if not entry["retired"]:
            operation = str(entry["profiling_name"]).rpartition(":")[2]
            group = entry["process_group"][1]
            since = max(time.time() - entry["time_created_ns"] / 1e9, 0.0)
            return f"{operation} (number {entry['collective_seq_id']} of {group})", since
    return "", 0.0


def _ranks(ranks: Sequence[int]) -> str:
    """``rank 3`` or ``ranks 0-2, 5``."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"
