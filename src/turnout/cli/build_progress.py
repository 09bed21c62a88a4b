"""How a build of the cache shows: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from turnout.data.progress import Progress

_FIRST, _EVERY = 3.0, 10.0  # seconds


def build_progress() -> Progress:
    """The display for where standard error goes."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines(_say, time.monotonic)


class Bar(Progress):
    """One bar at a time, gone when its work is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task = TaskID(0)

    def begin(self, what: str, total: int) -> None:
        """See ``Progress.begin``."""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task(what, total=total or None)
        self._bars.start()

    def advance(self, count: int) -> None:
        """See ``Progress.advance``."""
        if self._bars is not None:
            self._bars.advance(self._task, count)

    def end(self) -> None:
        """See ``Progress.end``."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None

    def note(self, line: str) -> None:
        """See ``Progress.note``."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Lines(Progress):
    """A line after three seconds and every ten after that; nothing of work that is quick."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say, self._clock = say, clock
        self._what, self._total, self._done, self._next = "", 0, 0, 0.0

    def begin(self, what: str, total: int) -> None:
        """See ``Progress.begin``."""
        self._what, self._total, self._done = what, total, 0
        self._next = self._clock() + _FIRST

    def advance(self, count: int) -> None:
        """See ``Progress.advance``."""
        self._done += count
        if self._clock() >= self._next:
            of = f" of {self._total / 1e6:,.1f}" if self._total else ""
            self._say(f"data: {self._what}: {self._done / 1e6:,.1f}{of} MB")
            self._next = self._clock() + _EVERY

    def end(self) -> None:
        """Nothing happens: the next line is that of what comes then."""

    def note(self, line: str) -> None:
        """See ``Progress.note``."""
        self._say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
