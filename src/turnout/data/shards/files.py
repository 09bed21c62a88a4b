"""Files of the cache: written whole or not at all, and checked before they are used."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
# Contents are hashed at every opening up to this size; of more, files whose size and time of
# change are those of their writing are taken as they are.
_ALWAYS_HASHED = 1 << 26


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of a file beside it; ``time`` is that of its change, in ns."""

    name: str
    size: int
    sha256: str
    time: int


class Damage(Exception):
    """A file of the cache is missing, or not what its manifest says; it must be made again."""


class HashedFile:
    """A new file that is hashed as it is written, and on disk once ``done`` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, raw: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(raw)
        self._digest.update(raw)
        self.size += len(raw)

    def done(self) -> FileRecord:
        """Flush, close, and say what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        time = self._path.stat().st_mtime_ns
        return FileRecord(self._path.name, self.size, self._digest.hexdigest(), time)

    def close(self) -> None:
        """Close without a record, after an error."""
        self._file.close()


def write_array(path: Path, array: np.ndarray) -> FileRecord:
    """An array as its plain bytes, in the machine's order."""
    file = HashedFile(path)
    try:
        file.write(array.tobytes())
        return file.done()
    finally:
        file.close()


def map_array(path: Path, dtype: Any) -> np.ndarray:
    """A read-only memory map of ``write_array``'s file; an empty file is an empty array.

    Raises:
        Damage: the file is missing.
    """
    try:
        if path.stat().st_size == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")
    except (OSError, ValueError) as error:
        raise Damage(f"{path.name}: {error}") from error


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all: written beside, flushed to disk, renamed into place."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(table, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """A table of this format's version; None where there is none to be had."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) and table.get("format") == FORMAT else None


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def records(table: Any) -> tuple[FileRecord, ...]:
    """File records from a manifest's list.

    Raises:
        Damage: it is not such a list.
    """
    try:
        return tuple(FileRecord(**entry) for entry in table)
    except TypeError as error:
        raise Damage("its manifest is of another form") from error


def plain(files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    """File records as JSON."""
    return [asdict(file) for file in files]


def check(folder: Path, files: Sequence[FileRecord], *, thorough: bool = False) -> None:
    """Compare files with their records; ``thorough`` hashes every one.

    Raises:
        Damage: one is missing, or differs.
    """
    small = sum(file.size for file in files) <= _ALWAYS_HASHED
    for file in files:
        path = folder / file.name
        try:
            found = path.stat()
            if found.st_size != file.size:
                raise Damage(f"{file.name} has {found.st_size:,} bytes instead of {file.size:,}")
            trusted = found.st_mtime_ns == file.time and not small and not thorough
            if not trusted and _sha256(path) != file.sha256:
                raise Damage(f"{file.name} is not what was written")
        except OSError as error:
            raise Damage(f"{file.name}: {error.strerror}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
