"""The text of a source as one file: every document once, in order.

Axes: N bytes, K documents, K1 one more.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from turnout.data.progress import Progress
from turnout.data.shards.files import (
    FORMAT,
    MANIFEST,
    Damage,
    HashedFile,
    check,
    map_array,
    plain,
    read_json,
    records,
    sync_folder,
    write_array,
    write_json,
)
from turnout.data.sources import Document, Sources

_TEXT, _STARTS, _DIGESTS = "text.bin", "starts.bin", "digests.bin"


@dataclass(frozen=True)
class Text:
    """Documents, memory-mapped.

    Attributes:
        folder: where it lies.
        sha256: over names and contents of the documents, in order.
        content: the documents, one behind the other.
        starts: where each begins, and the end of the last.
        digests: SHA-256 of each document.
        duplicates: documents left out because another has the same text; bytes of these.
        skipped: what was passed over, by reason.
        replaced: documents in which bytes that are not UTF-8 became U+FFFD.
    """

    folder: Path
    sha256: str
    content: UInt8[np.ndarray, " N"]
    starts: Int64[np.ndarray, " K1"]
    digests: UInt8[np.ndarray, "K 32"]
    duplicates: int
    duplicate_bytes: int
    skipped: dict[str, int]
    replaced: int

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    @property
    def num_bytes(self) -> int:
        return len(self.content)

    def piece(self, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` to ``end``."""
        return self.content[begin:end].tobytes()


def open_text(folder: Path, *, thorough: bool = False) -> Text:
    """Map the text of a folder that ``build_text`` finished.

    Raises:
        Damage: there is none, or not what was written.
    """
    table = read_json(folder / MANIFEST)
    if table is None:
        raise Damage("no manifest")
    check(folder, records(table.get("files")), thorough=thorough)
    return Text(
        folder=folder,
        sha256=str(table["sha256"]),
        content=map_array(folder / _TEXT, np.uint8),
        starts=map_array(folder / _STARTS, np.int64),
        digests=map_array(folder / _DIGESTS, np.uint8).reshape(-1, 32),
        duplicates=int(table["duplicates"]),
        duplicate_bytes=int(table["duplicate_bytes"]),
        skipped=dict(table["skipped"]),
        replaced=int(table["replaced"]),
    )


def build_text(sources: Sources, folder: Path, progress: Progress) -> str:
    """Read all documents into an empty ``folder``; its manifest is written last.

    Returns:
        The text's SHA-256.

    Raises:
        UserError: something cannot be read; see the sources.
    """
    writer = _Writer(folder)
    progress.begin("reading text", sources.total)
    try:
        for document in sources.documents():
            writer.add(document)
            progress.advance(len(document.text))
        return writer.finish()
    finally:
        writer.file.close()
        progress.end()


class _Writer:
    """Documents on their way to disk, each text once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = HashedFile(folder / _TEXT)
        self.all = hashlib.sha256()
        self.known: set[bytes] = set()
        self.starts = [0]
        self.digests = bytearray()
        self.skipped: Counter[str] = Counter()
        self.duplicates = self.duplicate_bytes = self.replaced = 0

    def add(self, document: Document) -> None:
        if document.skipped:
            self.skipped[document.skipped] += 1
            return
        digest = hashlib.sha256(document.text).digest()
        if digest in self.known:
            self.duplicates += 1
            self.duplicate_bytes += len(document.text)
            return
        self.known.add(digest)
        self.digests += digest
        self.replaced += document.replaced
        for field in (document.name.encode(errors="surrogateescape"), document.text):
            self.all.update(len(field).to_bytes(8, "little"))
            self.all.update(field)
        self.file.write(document.text)
        self.starts.append(self.file.size)

    def finish(self) -> str:
        digests = np.frombuffer(self.digests, np.uint8)
        files = [
            self.file.done(),
            write_array(self.folder / _STARTS, np.array(self.starts, np.int64)),
            write_array(self.folder / _DIGESTS, digests),
        ]
        table: dict[str, Any] = {
            "format": FORMAT,
            "sha256": self.all.hexdigest(),
            "documents": len(self.starts) - 1,
            "bytes": self.starts[-1],
            "duplicates": self.duplicates,
            "duplicate_bytes": self.duplicate_bytes,
            "skipped": dict(self.skipped),
            "replaced": self.replaced,
            "files": plain(files),
        }
        sync_folder(self.folder)
        write_json(self.folder / MANIFEST, table)
        return self.all.hexdigest()
