"""Reads any block of any tensor from whatever shards hold it, and believes nothing.

What a reader vouches for: the index has its SHA-256, the files it names are there with the sizes
and hashes it says, hold what it says, and the pieces of a tensor fill it once. Hashing takes
longer than reading, so that several processes share the files out between them: ``check`` takes
every n-th, and each process waits for the others' word before it uses a tensor.
"""

import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from turnout.checkpoint.blocks import Block, fault_of
from turnout.checkpoint.format import (
    INDEX,
    CheckpointError,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    dtype_name,
    named_dtype,
)
from turnout.checkpoint.index import load_index, shortened
from turnout.checkpoint.ranks import Ranks
from turnout.checkpoint.stream import TensorPlace, open_tensors, read_header

CHUNK = 2**20
Progress = Callable[[int], None]  # is told how many more bytes were read


@final
class Reader:
    """A checkpoint folder, open for reading.

    Attributes:
        folder: that of the step.
        index: what it says of itself.

    Raises:
        CheckpointError: it has no index, or one that names files outside of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.index = load_index(self.folder)
        self._whole: set[str] = set()
        self._headers: dict[str, dict[str, TensorPlace]] = {}
        # By shard: the pieces in it, each with the tensor that it belongs to.
        self._pieces: dict[str, list[tuple[str, PieceEntry]]] = {}
        for tensor, content in self.index.tensors.items():
            for piece in content.pieces:
                self._pieces.setdefault(piece.shard, []).append((tensor, piece))
        for name in self.index.shards:
            if Path(name).name != name:
                raise CheckpointError(
                    f"{self.folder}: the index names a shard outside the folder: {name!r}"
                )

    def check(self, share: int = 0, of: int = 1, progress: Progress | None = None) -> None:
        """Read every ``of``-th file from the ``share``-th on, and compare with the index.

        The rest is only looked at: that it is there, with its size.

        Raises:
            CheckpointError: one line that names the file, and the tensor where that can be told.
        """
        for name, entry in self.index.shards.items():
            self._present(name, entry)
        for number, tensor in enumerate(self.index.tensors):
            if number % of == share:
                self.check_tensor(tensor)
        for number, name in enumerate(self.index.shards):
            if number % of == share:
                self.check_file(name, progress)

    def check_file(self, name: str, progress: Progress | None = None) -> None:
        """Read a whole shard, and compare with the index.

        Raises:
            CheckpointError: one line that names the file, and the tensor where that can be told.
        """
        self._hashed(self._present(name, self.index.shards[name]), name, progress)
        for tensor, piece in self._pieces.get(name, []):
            self._place(piece, self.index.tensors[tensor])
        known = {piece.key for _, piece in self._pieces.get(name, [])}
        stray = [key for key in self._header(name) if key not in known]
        if stray:
            raise CheckpointError(
                f"{self.folder / name}: tensors the index does not name: {shortened(stray)}"
            )

    def check_together(self, ranks: Ranks, progress: Progress | None = None) -> None:
        """``check`` of the whole by all ranks, each of its share; returns when all are done.

        Raises:
            CheckpointError: on all ranks, if one found damage or reads another checkpoint.
        """

        def work() -> str:
            self.check(ranks.rank, ranks.size, progress)
            return str(self.index.to_json()["sha256"])

        def judge(messages: list[str]) -> list[str]:
            other = [rank for rank, message in enumerate(messages) if message != messages[0]]
            if other:
                raise CheckpointError(
                    f"{self.folder}: rank {other[0]} reads another {INDEX} there than rank 0"
                )
            return messages

        ranks.consult(work, judge)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor, on the CPU.

        Raises:
            CheckpointError: its pieces are not what the index says, overlap, or leave a hole.
        """
        return self.block(name, Block.whole(self._entry(name).shape))

    def block(self, name: str, block: Block) -> Tensor:
        """A block of a tensor, on the CPU, from whatever shards hold it.

        At most a few megabytes are in memory beside it.

        Raises:
            CheckpointError: as ``tensor``, or the block does not lie in it.
        """
        entry = self.check_tensor(name)
        inside = Block.whole(entry.shape)
        if len(block.shape) != len(inside.shape) or (block.size and block.shared(inside) != block):
            raise CheckpointError(
                f"{self.folder}: {name} is {list(entry.shape)}, and has no block {block.text()}"
            )
        found = torch.empty(block.shape, dtype=named_dtype(entry.dtype))
        for piece in entry.pieces:
            shared = piece.block.shared(block)
            if shared is not None:
                place = self._place(piece, entry)
                with open_tensors(self.folder / piece.shard) as file:
                    file.fill(found[shared.within(block)], place, shared.within(piece.block))
        return found

    def described(self) -> dict[str, Tensor]:
        """Every tensor without its content, on the meta device."""
        return {
            name: torch.empty(entry.shape, dtype=named_dtype(entry.dtype), device="meta")
            for name, entry in self.index.tensors.items()
        }

    def _entry(self, name: str) -> TensorEntry:
        entry = self.index.tensors.get(name)
        if entry is None:
            raise CheckpointError(f"{self.folder} holds no tensor {name}")
        return entry

    def check_tensor(self, name: str) -> TensorEntry:
        """What the index says of a tensor, if its pieces fill it once.

        Raises:
            CheckpointError: they do not, or there is no such tensor.
        """
        entry = self._entry(name)
        if name in self._whole:
            return entry
        fault = fault_of(entry.shape, [piece.block for piece in entry.pieces])
        if fault:
            raise CheckpointError(f"{self.folder}: {name} {fault}")
        for piece in entry.pieces:
            if piece.shard not in self.index.shards:
                raise CheckpointError(f"{self.folder}: the index names no shard {piece.shard!r}")
        self._whole.add(name)
        return entry

    def _present(self, name: str, entry: ShardEntry) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the checkpoint is damaged")
        size = path.stat().st_size
        if size != entry.size:
            raise CheckpointError(
                f"{path} has {size} bytes, must have {entry.size}: the checkpoint is damaged"
            )
        return path

    def _header(self, name: str) -> dict[str, TensorPlace]:
        if name not in self._headers:
            self._headers[name] = read_header(self._present(name, self.index.shards[name]))
        return self._headers[name]

    def _place(self, piece: PieceEntry, entry: TensorEntry) -> TensorPlace:
        place = self._header(piece.shard).get(piece.key)
        if place is None or place.shape != piece.shape or dtype_name(place.dtype) != entry.dtype:
            raise CheckpointError(
                f"{self.folder / piece.shard} does not hold {piece.key} as the index says"
            )
        return place

    def _hashed(self, path: Path, name: str, progress: Progress | None) -> None:
        entry, digest = self.index.shards[name], sha256()
        for part in _chunks(path, 0, entry.size):
            digest.update(part)
            if progress is not None:
                progress(len(part))
        if digest.hexdigest() != entry.sha256:
            raise CheckpointError(
                f"{path} does not have its SHA-256: the checkpoint is damaged{self._culprit(name)}"
            )

    def _culprit(self, name: str) -> str:
        """Where in a file the damage lies, as far as the CRC-32 of its tensors tell."""
        try:
            places = self._header(name)
        except CheckpointError:
            return ", in the file's header"
        start = self.index.shards[name].size - max((p.end for p in places.values()), default=0)
        known = [(tensor, p) for tensor, p in self._pieces.get(name, []) if p.crc32 is not None]
        for tensor, piece in known:
            place, crc32 = places.get(piece.key), 0
            if place is None:
                return ", in the file's header"
            for part in _chunks(self.folder / name, start + place.start, start + place.end):
                crc32 = zlib.crc32(part, crc32)
            if crc32 != piece.crc32:
                return f", in {tensor}{piece.block.text() if any(piece.offset) else ''}"
        return ", in the file's header" if len(known) == len(places) > 0 else ""


def _chunks(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (part := file.read(min(CHUNK, end - start))):
            start += len(part)
            yield part
