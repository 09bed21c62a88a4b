"""Tokens of a text in memory-mapped shards. Axes: N tokens, K documents, K1 one more."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from turnout.data.progress import Progress
from turnout.data.shards.files import (
    FORMAT,
    MANIFEST,
    Damage,
    FileRecord,
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
from turnout.data.shards.text import Text
from turnout.data.tokenizers import Tokenizer
from turnout.data.tokenizers.cut import parts

SHARD_TOKENS = 1 << 26
_BATCH_BYTES = 1 << 22
_STARTS = "starts.bin"


@dataclass(frozen=True)
class Tokens:
    """The tokens of all documents, one document behind the other, with nothing between them.

    Attributes:
        shards: each of ``size`` tokens, the last one shorter.
        starts: where each document begins, and the end of the last.
        aligned: every document's tokens stand for exactly its bytes, so that a token's place in
            the text follows from the lengths of those before it.
    """

    shards: tuple[Integer[np.ndarray, " _"], ...]
    size: int
    starts: Int64[np.ndarray, " K1"]
    aligned: bool

    @staticmethod
    def of(documents: Sequence[Integer[np.ndarray, " _"]]) -> "Tokens":
        """Documents held in memory."""
        starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        joined = np.concatenate([np.empty(0, np.uint16), *documents])
        return Tokens((joined,), max(len(joined), 1), starts, aligned=True)

    def read(self, place: Int64[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """The tokens at these places."""
        shard, within = np.divmod(place, self.size)
        used = np.unique(shard).tolist()
        if len(used) == 1:
            tokens: Integer[np.ndarray, "..."] = self.shards[used[0]][within]
            return tokens
        found = np.empty(place.shape, self.shards[0].dtype)
        for each in used:
            here = shard == each
            found[here] = self.shards[each][within[here]]
        return found

    def span(self, begin: int, end: int) -> Integer[np.ndarray, " _"]:
        """The tokens from ``begin`` to ``end``."""
        return self.read(np.arange(begin, end)) if end > begin else self.shards[0][:0]


def open_tokens(folder: Path, *, thorough: bool = False) -> Tokens:
    """Map the shards of a folder that ``build_tokens`` finished.

    Raises:
        Damage: there are none, or not what was written.
    """
    table = read_json(folder / MANIFEST)
    if table is None:
        raise Damage("no manifest")
    files = records(table.get("shards"))
    check(folder, (*files, *records(table.get("index"))), thorough=thorough)
    dtype = np.dtype(table["dtype"])
    return Tokens(
        shards=tuple(map_array(folder / file.name, dtype) for file in files),
        size=int(table["shard_tokens"]),
        starts=map_array(folder / _STARTS, np.int64),
        aligned=bool(table["aligned"]),
    )


def build_tokens(
    text: Text,
    bounds: Int64[np.ndarray, " K1"],
    tokenizer: Tokenizer,
    folder: Path,
    threads: int,
    progress: Progress,
) -> None:
    """Tokenise the pieces of ``text`` between ``bounds`` into an empty ``folder``.

    The manifest is written last. Ids are stored in 16 bits where the vocabulary allows it.
    Documents above 4 MiB are tokenised in parts (see ``tokenizers.cut``).
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    writer = _Shards(folder, dtype)
    lengths = np.zeros(len(bounds) - 1, dtype=np.int64)
    aligned = True
    progress.begin("tokenising", int(bounds[-1] - bounds[0]))
    try:
        for documents, batch in _batches(text, bounds):
            encoded = tokenizer.encode_documents(batch, threads)
            for document, part, ids in zip(documents, batch, encoded, strict=True):
                aligned = aligned and int(tokenizer.byte_lengths[ids].sum()) == len(part)
                writer.add(ids.astype(dtype, copy=False))
                lengths[document] += len(ids)
            progress.advance(sum(map(len, batch)))
        shards = writer.finish()
    finally:
        writer.close()
        progress.end()
    starts = np.append(0, np.cumsum(lengths))
    index = write_array(folder / _STARTS, starts)
    sync_folder(folder)
    table = {
        "format": FORMAT,
        "text": text.sha256,
        "tokenizer": tokenizer.fingerprint,
        "documents": len(starts) - 1,
        "tokens": int(starts[-1]),
        "aligned": aligned,
        "dtype": dtype.name,
        "shard_tokens": SHARD_TOKENS,
        "shards": plain(shards),
        "index": plain([index]),
    }
    write_json(folder / MANIFEST, table)


def _batches(
    text: Text, bounds: Int64[np.ndarray, " K1"]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Documents, or parts of long ones, about 4 MiB at a time, with the documents' numbers."""
    numbers: list[int] = []
    batch: list[bytes] = []
    size = 0
    for document, (begin, end) in enumerate(pairwise(bounds.tolist())):
        for part in parts(text.piece(begin, end), _BATCH_BYTES):
            numbers.append(document)
            batch.append(part)
            size += len(part)
            if size >= _BATCH_BYTES:
                yield numbers, batch
                numbers, batch, size = [], [], 0
    if batch:
        yield numbers, batch


class _Shards:
    """Tokens on their way into shards of ``SHARD_TOKENS``; there is always one."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self._folder = folder
        self._bytes = SHARD_TOKENS * dtype.itemsize
        self._done: list[FileRecord] = []
        self._file = HashedFile(folder / "00000.bin")

    def add(self, ids: Integer[np.ndarray, " _"]) -> None:
        raw = memoryview(ids.tobytes())
        while len(raw) > self._bytes - self._file.size:
            room = self._bytes - self._file.size
            self._file.write(raw[:room])
            raw = raw[room:]
            self._done.append(self._file.done())
            self._file = HashedFile(self._folder / f"{len(self._done):05}.bin")
        self._file.write(raw)

    def finish(self) -> list[FileRecord]:
        return [*self._done, self._file.done()]

    def close(self) -> None:
        self._file.close()
