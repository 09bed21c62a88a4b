"""Writes a checkpoint so that it is either complete or not a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnout.checkpoint.blocks import fault_of
from turnout.checkpoint.durable import replace_file, sync_folder, write_file
from turnout.checkpoint.format import (
    INDEX,
    SHARDS,
    CheckpointError,
    Index,
    Piece,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    dtype_name,
    shard_name,
)
from turnout.checkpoint.stream import Planned, Written, write_stream

__all__ = [
    "ShardRecord",
    "commit",
    "host_copy",
    "prepare",
    "replace_file",
    "save",
    "save_shards",
    "write_index",
    "write_shard",
]


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is on disk: the file, what vouches for it, and the pieces of each tensor."""

    file: str
    entry: ShardEntry
    pieces: Mapping[str, PieceEntry]


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write whole tensors as one shard, and then the index that makes the folder a checkpoint.

    Args:
        texts: files for people to read, by name; nothing reads them back.

    Raises:
        CheckpointError: the folder already is a checkpoint.
        TypeError: ``meta`` holds something that JSON does not.
    """
    pieces = [Piece(name, (0,) * t.dim(), t) for name, t in tensors.items()]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    save_shards(folder, [pieces], shapes, meta, texts)


def save_shards(
    folder: Path,
    shards: Sequence[Sequence[Piece]],
    shapes: Mapping[str, tuple[int, ...]],
    meta: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write pieces as they are spread over shards; ``shapes`` are those of the whole tensors.

    Raises:
        CheckpointError: the folder already is a checkpoint, or the pieces of a tensor do not fill
            it once.
        TypeError: ``meta`` holds something that JSON does not.
    """
    folder = Path(folder)
    prepare(folder, meta)
    records = [
        write_shard(folder, shard_name(number, len(shards)), pieces)
        for number, pieces in enumerate(shards, start=1)
    ]
    dtypes = {piece.name: dtype_name(piece.tensor.dtype) for pieces in shards for piece in pieces}
    commit(folder, records, {name: (shapes[name], dtypes[name]) for name in shapes}, meta, texts)


def prepare(folder: Path, meta: Mapping[str, Any]) -> None:
    """Make the folder, without the shards of a save that was cut off.

    Raises:
        CheckpointError: it already is a checkpoint.
        TypeError, ValueError: ``meta`` holds something that JSON does not.
    """
    if (folder / INDEX).exists():
        raise CheckpointError(f"{folder} already holds a checkpoint")
    json.dumps(meta, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(SHARDS):
        left.unlink()


def write_shard(folder: Path, file: str, pieces: Sequence[Piece]) -> ShardRecord:
    """Write a shard to disk; a tensor has one piece in it at most."""
    written = _write_shard(folder / file, pieces)
    return ShardRecord(
        file,
        written.entry,
        {
            piece.name: PieceEntry(
                file,
                piece.key,
                piece.offset,
                tuple(piece.tensor.shape),
                written.crc32.get(piece.key),
            )
            for piece in pieces
        },
    )


def commit(
    folder: Path,
    records: Sequence[ShardRecord],
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    meta: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Make shards that are on disk a checkpoint.

    Args:
        tensors: shape and dtype's name of each whole tensor.

    Raises:
        CheckpointError: a shard is not there, or the pieces of a tensor do not fill it once.
    """
    shards = {record.file: record.entry for record in records}
    pieces: dict[str, list[PieceEntry]] = {name: [] for name in tensors}
    for record in records:
        path = folder / record.file
        if not path.is_file() or path.stat().st_size != record.entry.size:
            raise CheckpointError(
                f"{path} was written but is not to be seen here: all processes must write to one "
                "shared folder"
            )
        for name, piece in record.pieces.items():
            pieces[name].append(piece)
    for name, (shape, _) in tensors.items():
        fault = fault_of(shape, [piece.block for piece in pieces[name]])
        if fault:
            raise CheckpointError(f"{folder} would not be whole: {name} {fault}")
    for name, text in (texts or {}).items():
        write_file(folder / name, text.encode())
    sync_folder(folder)
    entries = {
        name: TensorEntry(shape, dtype, tuple(pieces[name]))
        for name, (shape, dtype) in tensors.items()
    }
    write_index(folder, Index(shards, entries, meta))
    sync_folder(folder.parent)


def write_index(folder: Path, index: Index) -> None:
    """Makes the folder a checkpoint: everything else must be on disk."""
    replace_file(folder / INDEX, index.to_text().encode())


def host_copy(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, for training may go on meanwhile."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _write_shard(path: Path, pieces: Sequence[Piece]) -> Written:
    """The widest dtypes first, so that every tensor lies at a multiple of its entries' size."""
    ordered = sorted(pieces, key=lambda piece: -piece.tensor.dtype.itemsize)
    planned = [Planned(p.key, p.tensor.dtype, tuple(p.tensor.shape)) for p in ordered]
    return write_stream(path, planned, (piece.tensor for piece in ordered))
