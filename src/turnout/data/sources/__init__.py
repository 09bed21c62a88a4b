"""Where text comes from: ``read`` turns paths into documents, whatever the paths name."""

import difflib
import glob
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnout.config.errors import UserError
from turnout.data.sources.base import Document, Source
from turnout.data.sources.files import FileSource, FolderSource, LibrarySource
from turnout.data.sources.hub import PREFIX, HubSource

__all__ = ["Document", "Source", "Sources", "open_sources", "read"]


@dataclass(frozen=True)
class Sources(Source):
    """Several sources, one after the other.

    Attributes:
        parts: the sources.
        origin: what they are, in words.
        identity: the same for the same places, from wherever they are named.
    """

    parts: tuple[Source, ...]
    origin: str
    identity: tuple[str, ...]

    @property
    def stamp(self) -> tuple[str, ...]:
        """See ``Source.stamp``."""
        return tuple(f"{i} {line}" for i, part in enumerate(self.parts) for line in part.stamp)

    @property
    def total(self) -> int:
        """See ``Source.total``."""
        totals = [part.total for part in self.parts]
        return sum(totals) if all(totals) else 0

    def documents(self) -> Iterator[Document]:
        """See ``Source.documents``."""
        for part in self.parts:
            yield from part.documents()


def read(paths: tuple[str, ...] = (), field: str = "text") -> Iterator[Document]:
    """The documents of files, folders (recursively), globs and ``hf:`` data sets, in order.

    Without a path, the standard library of the running Python.

    Args:
        paths: what to read; a path given twice is read once.
        field: what holds the text in ``.jsonl``, ``.parquet`` and ``hf:`` sources.

    Raises:
        UserError: a path that is not there, or something that cannot be read.
    """
    return open_sources(paths, field).documents()


def open_sources(paths: tuple[str, ...] = (), field: str = "text") -> Sources:
    """What ``read`` would read, with its stamp; nothing is opened yet.

    Raises:
        UserError: a path that is not there.
    """
    if not paths:
        root = Path(sysconfig.get_paths()["stdlib"])
        origin = f"the standard library of Python {platform.python_version()}"
        return Sources((LibrarySource(root),), origin, ("library", str(root)))
    given = dict.fromkeys(paths)
    parts = dict.fromkeys(part for path in given for part in _parts(path, field))
    places = [path if path.startswith(PREFIX) else str(Path(path).absolute()) for path in given]
    return Sources(tuple(parts), in_words(tuple(given)), (field, *places))


def in_words(paths: tuple[str, ...]) -> str:
    """The paths, each once; of more than four the first three and how many others there are."""
    given = list(dict.fromkeys(paths))
    if len(given) <= 4:
        return ", ".join(given)
    return f"{', '.join(given[:3])} and {len(given) - 3} more"


def _parts(path: str, field: str) -> list[Source]:
    if path.startswith(PREFIX):
        return [HubSource.of(path, field)]
    place = Path(path)
    if not path or "\0" in path:
        raise UserError(f"data.paths: {path!r}: must name a file or folder")
    if not place.exists() and glob.has_magic(path):
        return _globbed(path, field)
    if place.is_dir():
        return [FolderSource(place, field)]
    if not place.exists():
        raise UserError(f"data.paths: no such file or folder {path!r}; {_likely(place)}")
    return [_file(place, field)]


def _globbed(pattern: str, field: str) -> list[Source]:
    """Files, and folders unless the pattern itself goes into them."""
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    deep = "**" in pattern
    sources: list[Source] = [
        FolderSource(path, field) if path.is_dir() else FileSource(path, field)
        for path in found
        if path.is_file() or (path.is_dir() and not deep)
    ]
    if not sources:
        raise UserError(f"data.paths: no file matches {pattern!r}; {_start()}")
    return sources


def _file(path: Path, field: str) -> Source:
    if not path.is_file():
        raise UserError(f"data.paths: {str(path)!r} is no plain file; give a text file or a folder")
    return FileSource(path, field)


def _likely(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"did you mean {str(path.parent / close[0])!r}?" if close else _start()


def _start() -> str:
    return f"relative paths start at {str(Path.cwd())!r}"
