"""Files and folders, and the running Python's own library. The suffix says what a file holds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnout.config.errors import UserError
from turnout.data.sources.base import (
    Document,
    Source,
    decoded,
    file_size,
    file_stamp,
    unreadable,
)
from turnout.data.sources.jsonl import json_lines
from turnout.data.sources.parquet import parquet_rows

# Tests, a program that happens to lie there, and what others installed.
_NOT_LIBRARY = ("test", "tests", "idlelib", "site-packages", "dist-packages")


@dataclass(frozen=True)
class FileSource(Source):
    """A file that was named outright: it is taken or refused, never skipped."""

    path: Path
    field: str

    @property
    def stamp(self) -> tuple[str, ...]:
        """See ``Source.stamp``."""
        return (file_stamp(self.path, self.path.name),)

    @property
    def total(self) -> int:
        """See ``Source.total``; the size of a compressed file says little."""
        return 0 if self.path.suffix == ".parquet" else file_size(self.path)

    def documents(self) -> Iterator[Document]:
        """See ``Source.documents``."""
        empty = True
        for document in _inside(self.path, self.path.name, self.field):
            if document.skipped and self.path.suffix not in _RECORDS:
                raise UserError(
                    f"data.paths: {str(self.path)!r} is {document.skipped}; give a file of UTF-8 "
                    "text"
                )
            empty = empty and bool(document.skipped)
            yield document
        if empty:
            raise UserError(f"data.paths: {str(self.path)!r} holds no text; give another file")


@dataclass(frozen=True)
class FolderSource(Source):
    """All files below a folder, by relative name.

    Hidden and binary files, empty ones and what is no plain file are skipped and counted.
    """

    folder: Path
    field: str

    @property
    def stamp(self) -> tuple[str, ...]:
        """See ``Source.stamp``."""
        return tuple(
            file_stamp(path, path.relative_to(self.folder).as_posix())
            for path in _walk(self.folder)
            if not _hidden(path, self.folder) and path.is_file()
        )

    @property
    def total(self) -> int:
        """See ``Source.total``."""
        return sum(map(file_size, _walk(self.folder)))

    def documents(self) -> Iterator[Document]:
        """See ``Source.documents``."""
        reasons: dict[str, int] = {}
        empty = True
        for path in _walk(self.folder):
            for document in self._file(path):
                if document.skipped:
                    reasons[document.skipped] = reasons.get(document.skipped, 0) + 1
                empty = empty and bool(document.skipped)
                yield document
        if empty:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise UserError(
                f"data.paths: no text in folder {str(self.folder)!r}: "
                f"{counted or 'no file at all'}; give a folder that holds files of UTF-8 text"
            )

    def _file(self, path: Path) -> Iterator[Document]:
        name = path.relative_to(self.folder).as_posix()
        if _hidden(path, self.folder):
            return iter([Document(name, b"", skipped="hidden")])
        # Reading a pipe would wait for ever; a broken link is nothing to read either.
        if os.path.lexists(path) and not path.is_file():
            return iter([Document(name, b"", skipped="no plain file")])
        return _inside(path, name, self.field)


@dataclass(frozen=True)
class LibrarySource(Source):
    """The source files of the running Python's own library."""

    root: Path

    @property
    def stamp(self) -> tuple[str, ...]:
        """See ``Source.stamp``."""
        return tuple(
            file_stamp(path, path.relative_to(self.root).as_posix()) for path in self._paths()
        )

    @property
    def total(self) -> int:
        """See ``Source.total``."""
        return sum(map(file_size, self._paths()))

    def documents(self) -> Iterator[Document]:
        """See ``Source.documents``."""
        paths = self._paths()
        if not paths:
            raise UserError(
                f"data.paths: no source files in {str(self.root)!r}; give text with --data"
            )
        for path in paths:
            yield _text_file(path, path.relative_to(self.root).as_posix())

    def _paths(self) -> list[Path]:
        return [path for path in _walk(self.root, _NOT_LIBRARY) if path.suffix == ".py"]


_RECORDS = {".jsonl": json_lines, ".parquet": parquet_rows}


def _inside(path: Path, name: str, field: str) -> Iterator[Document]:
    records = _RECORDS.get(path.suffix)
    if records is None:
        return iter([_text_file(path, name)])
    return records(path, name, field)


def _text_file(path: Path, name: str) -> Document:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    return decoded(raw, name)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _walk(root: Path, without: tuple[str, ...] = ()) -> list[Path]:
    """All files below ``root``, by relative name; folders of the names ``without`` are left out."""

    def refuse(error: OSError) -> None:
        raise UserError(f"data.paths: cannot read folder {error.filename!r}: {error.strerror}")

    files = []
    for folder, inner, names in os.walk(root, onerror=refuse):
        # os.walk descends into what is left in this list.
        inner[:] = [name for name in inner if name not in without]
        files += [Path(folder, name) for name in names]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())
