"""One comparison at a time in a folder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from turnout.config.errors import UserError

LOCK = "lock"
_PATIENCE = 30.0


@contextmanager
def locked(folder: Path, patience: float = _PATIENCE) -> Iterator[int]:
    """Hold ``folder``; yields the lock's file descriptor, for child processes to inherit.

    The lock ends with the last process that has the descriptor, however it ends; so a run that is
    still stopping after its comparison was killed is waited for, up to ``patience`` seconds.
    Where the system has no such locks (Windows) nothing is locked.

    Raises:
        UserError: another comparison is at work there.
    """
    with (folder / LOCK).open("a") as file:
        if find_spec("fcntl") is not None:
            _take(file.fileno(), folder, time.monotonic() + patience)
        yield file.fileno()


def _take(descriptor: int, folder: Path, until: float) -> None:
    fcntl = import_module("fcntl")
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise UserError(
                    f"{folder}: another turnout compare is at work there; wait for it, stop it, "
                    "or name another folder with --out"
                ) from None
            time.sleep(0.1)
