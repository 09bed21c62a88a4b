"""What sources give: documents, one after the other, and a quick stamp of where they came from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnout.config.errors import UserError

_HEAD = 8192
_MAX_REPLACED = 0.1


@dataclass(frozen=True)
class Document:
    """One text, valid UTF-8; ``skipped`` says why there is none.

    ``replaced``: bytes that are not UTF-8 became U+FFFD.
    """

    name: str
    text: bytes
    skipped: str = ""
    replaced: bool = False


class Source(ABC):
    """Documents in a fixed order."""

    @property
    @abstractmethod
    def stamp(self) -> tuple[str, ...]:
        """Names, sizes and times of what would be read: equal stamps, equal text (usually)."""

    @property
    @abstractmethod
    def total(self) -> int:
        """Bytes of text that ``documents`` will come to, nearly; 0 where nobody knows."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Read everything, one document in memory at a time.

        Raises:
            UserError: something cannot be read.
        """


def decoded(raw: bytes, name: str) -> Document:
    """The contents of a file as a document; files without text are skipped."""
    if not raw:
        return Document(name, b"", skipped="empty")
    if b"\0" in raw[:_HEAD]:
        return Document(name, b"", skipped="binary")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _repaired(raw, name)
    return Document(name, raw)


def field_document(value: str, name: str) -> Document:
    """A string field as a document; halves of surrogate pairs become U+FFFD."""
    if not value:
        return Document(name, b"", skipped="empty")
    try:
        return Document(name, value.encode())
    except UnicodeEncodeError:
        return Document(
            name,
            value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode(),
            replaced=True,
        )


def file_stamp(path: Path, name: str) -> str:
    """Name, size and time of change of a file.

    Raises:
        UserError: the file has gone.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def file_size(path: Path) -> int:
    """Bytes of a file; 0 where there is none any more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def unreadable(path: Path, error: OSError) -> UserError:
    """One line about a file that cannot be read."""
    return UserError(
        f"data.paths: cannot read {str(path)!r}: {error.strerror}; check that it is there and its "
        "permissions"
    )


def _repaired(raw: bytes, name: str) -> Document:
    text = raw.decode(errors="replace")
    if text.count("\ufffd") > _MAX_REPLACED * len(text):
        return Document(name, b"", skipped="not UTF-8")
    return Document(name, text.encode(), replaced=True)
