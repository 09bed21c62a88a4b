"""One builder at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from turnout.config.errors import UserError
from turnout.data.progress import Progress


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock; who comes later waits, and is told so.

    The operating system holds the lock for the process, so it goes when its owner dies.

    Raises:
        UserError: the folder's file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"data: another process prepares this text in {folder}; waiting for it")
            lock.acquire()
    except NotImplementedError as error:
        raise UserError(
            f"data.cache: files in {str(folder)!r} cannot be locked; name a folder on a local disk "
            "with --data.cache"
        ) from error
    try:
        yield
    finally:
        lock.release()
