"""Where the text comes from: the running Python's own library, or the user's files and folders."""

import difflib
import hashlib
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout.config.errors import UserError

# Tests, a program that happens to lie there, and what others installed.
_NOT_LIBRARY = ("test", "tests", "idlelib", "site-packages", "dist-packages")
_HEAD = 8192
_MAX_REPLACED = 0.1


@dataclass(frozen=True)
class Documents:
    """Text in a fixed order.

    Attributes:
        names: one a document, relative to the folder it was found in.
        texts: the contents, valid UTF-8, none empty.
        sha256: over names and contents, in order.
        skipped: files that were passed over, by reason.
        replaced: documents in which bytes that are not UTF-8 became U+FFFD.
        origin: what was read, in words.
    """

    names: tuple[str, ...]
    texts: tuple[bytes, ...]
    sha256: str
    skipped: Mapping[str, int]
    replaced: int
    origin: str

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class _Document:
    name: str
    text: bytes
    skipped: str = ""
    replaced: bool = False


def read(paths: tuple[str, ...] = ()) -> Documents:
    """Read files and folders (recursively), or the standard library when there is no path.

    A folder's files come in the order of their relative names; hidden and binary files, empty
    ones and what is no plain file are skipped and counted. A file named outright is taken or
    refused, never skipped.

    Raises:
        UserError: no such path, an unreadable or empty or binary file, a folder without text.
    """
    if not paths:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = list(_standard_library(root))
        if not found:
            raise UserError(f"data.paths: no source files in {str(root)!r}; give text with --data")
        return _collect(found, f"the standard library of Python {platform.python_version()}")
    found = []
    for path in dict.fromkeys(paths):
        found.extend(_from_path(Path(path)))
    return _collect(found, ", ".join(dict.fromkeys(paths)))


def _standard_library(root: Path) -> Iterator[_Document]:
    for path in _walk(root, without=_NOT_LIBRARY):
        if path.suffix == ".py":
            yield _load(path, path.relative_to(root).as_posix())


def _from_path(path: Path) -> list[_Document]:
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise UserError(f"data.paths: no such file or folder {str(path)!r}; {_likely(path)}")
    if not path.is_file():
        raise UserError(f"data.paths: {str(path)!r} is no plain file; give a text file or a folder")
    document = _load(path, path.name)
    if document.skipped:
        raise UserError(
            f"data.paths: {str(path)!r} is {document.skipped}; give a file of UTF-8 text"
        )
    return [document]


def _from_folder(folder: Path) -> list[_Document]:
    found = [_inside(folder, path) for path in _walk(folder)]
    if all(document.skipped for document in found):
        raise UserError(
            f"data.paths: no text in folder {str(folder)!r}: "
            f"{_reasons(found) or 'no file at all'}; give a folder that holds files of UTF-8 text"
        )
    return found


def _inside(folder: Path, path: Path) -> _Document:
    relative = path.relative_to(folder)
    if any(part.startswith(".") for part in relative.parts):
        return _Document(str(relative), b"", skipped="hidden")
    # Reading a pipe would wait for ever; a broken link is nothing to read either.
    if not path.is_file():
        return _Document(str(relative), b"", skipped="no plain file")
    return _load(path, relative.as_posix())


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


def _load(path: Path, name: str) -> _Document:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"data.paths: cannot read {str(path)!r}: {error.strerror}; check its permissions"
        ) from error
    if not raw:
        return _Document(name, b"", skipped="empty")
    if b"\0" in raw[:_HEAD]:
        return _Document(name, b"", skipped="binary")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _repair(raw, name)
    return _Document(name, raw)


def _repair(raw: bytes, name: str) -> _Document:
    text = raw.decode(errors="replace")
    if text.count("\ufffd") > _MAX_REPLACED * len(text):
        return _Document(name, b"", skipped="not UTF-8")
    return _Document(name, text.encode(), replaced=True)


def _collect(found: list[_Document], origin: str) -> Documents:
    kept = [document for document in found if not document.skipped]
    return Documents(
        names=tuple(document.name for document in kept),
        texts=tuple(document.text for document in kept),
        sha256=_sha256(kept),
        skipped=Counter(document.skipped for document in found if document.skipped),
        replaced=sum(document.replaced for document in kept),
        origin=origin,
    )


def _sha256(documents: list[_Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        for field in (document.name.encode(errors="surrogateescape"), document.text):
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)
    return digest.hexdigest()


def _reasons(found: list[_Document]) -> str:
    counts = Counter(document.skipped for document in found)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _likely(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    if close:
        return f"did you mean {str(path.parent / close[0])!r}?"
    return f"relative paths start at {str(Path.cwd())!r}"
