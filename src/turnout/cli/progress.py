"""How a comparison goes: one line that changes on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console

from turnout.compare.runner import Progress

_EVERY = 30.0


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """What to tell of each step; a finished run keeps its line."""
    console = Console()
    if not console.is_terminal:
        yield _plain()
        return
    with console.status("starting") as status:

        def show(now: Progress) -> None:
            status.update(line(now))
            if now.done:
                console.print(line(now), highlight=False, markup=False)

        yield show


def line(now: Progress) -> str:
    """``run 3 of 12 | experts-8-lr0.002-seed0 | step 120/600 | 0:12:40 left``."""
    parts = [f"run {now.number} of {now.total}", now.run, f"step {now.step}/{now.steps}"]
    if now.loss is not None:
        parts.append(f"loss {now.loss:.4f}")
    if now.done:
        parts.append("done")
    if now.seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(now.seconds_left))} left")
    return " | ".join(parts)


def _plain() -> Callable[[Progress], None]:
    """Prints a line a run and one each half minute."""
    last = time.monotonic()

    def show(now: Progress) -> None:
        nonlocal last
        if now.done or time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            print(line(now), flush=True)

    return show
