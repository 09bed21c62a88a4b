"""How long work on a task shows: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_FIRST, _EVERY = 3.0, 10.0  # seconds


@contextmanager
def telling(name: str) -> Iterator[Callable[[int, int], None]]:
    """What to tell of rows that are done; on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(name, _say, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def lines(
    name: str, say: Callable[[str], None], clock: Callable[[], float]
) -> Callable[[int, int], None]:
    """A line after three seconds and every ten after that; nothing of work that is quick."""
    wait = [clock() + _FIRST]

    def tell(done: int, total: int) -> None:
        if clock() >= wait[0] and done < total:
            say(f"{name}: {done:,} of {total:,} rows")
            wait[0] = clock() + _EVERY

    return tell


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
