"""How reading and writing checkpoints shows: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from turnout.cli.build_progress import Bar, Lines


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Within it: what is called with each number of bytes that were done."""
    console = Console(stderr=True)
    shown = Bar(console) if console.is_terminal else Lines(_say, time.monotonic)
    shown.begin(what, total)
    try:
        yield shown.advance
    finally:
        shown.end()


def _say(line: str) -> None:
    print(line.removeprefix("data: "), file=sys.stderr, flush=True)
