"""Files that are on disk when the call returns, and files that are replaced whole."""

import os
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, final

from turnout.checkpoint.index import ShardEntry


@final
class Sink:
    """A file that is written from start to end while its size and SHA-256 are taken."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._file = file
        self._digest = sha256()

    def put(self, data: bytes | memoryview) -> bytes | memoryview:
        """Appends, and returns what it was given."""
        append(self._file, data)
        self._digest.update(data)
        self.size += len(data)
        return data

    def close(self) -> ShardEntry:
        """Waits until the content is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return ShardEntry(self.size, self._digest.hexdigest())


def append(file: BinaryIO, data: bytes | memoryview) -> None:
    """The one place where the bytes of a checkpoint go to a file."""
    file.write(data)


def write_file(path: Path, data: bytes) -> None:
    """A whole file, on disk."""
    with path.open("wb") as file:
        sink = Sink(file)
        sink.put(data)
        sink.close()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    write_file(temporary, data)
    os.rename(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in it are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
