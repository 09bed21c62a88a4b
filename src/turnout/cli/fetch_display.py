"""How a fetch is shown: one moving line on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from turnout.data.fetch.progress import Progress


class PlainProgress(Progress):
    """Prints downloads that begin, and what has ended."""

    def begin(self, label: str, total: int) -> None:
        """Say that a download begins; it may take long, unlike cleaning."""
        if total:
            self.say(f"{label}: fetching {total / 1e6:.1f} MB")

    def update(self, done: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Print the line at once."""
        print(line, flush=True)


class LiveProgress(Progress):
    """A bar for the step at hand, and the finished ones above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("asking apt and npm", total=None)

    def begin(self, label: str, total: int) -> None:
        """Start the bar anew."""
        self._bar.remove_task(self._task)  # a reset would keep the total of the step before
        self._task = self._bar.add_task(label, total=total or None)

    def update(self, done: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done)

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def display() -> Iterator[Progress]:
    """The display for where standard output goes."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, TransferSpeedColumn(), console=console, transient=True) as bar:
        yield LiveProgress(bar)
