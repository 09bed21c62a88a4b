"""Writes a checkpoint so that it is either complete or not a checkpoint."""

import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from turnout.checkpoint.format import (
    INDEX,
    CheckpointError,
    Index,
    Piece,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    dtype_name,
)


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
    """Write pieces as they are spread over shards; ``shapes`` are those of the whole tensors."""
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise CheckpointError(f"{folder} already holds a checkpoint")
    json.dumps(meta, allow_nan=False)  # refuse before any file is written
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, ShardEntry] = {}
    entries: dict[str, list[PieceEntry]] = {name: [] for name in shapes}
    dtypes: dict[str, str] = {}
    for number, pieces in enumerate(shards, start=1):
        file = f"shard-{number:05d}-of-{len(shards):05d}.safetensors"
        written[file] = _write_shard(folder / file, pieces)
        for piece in pieces:
            dtypes[piece.name] = dtype_name(piece.tensor.dtype)
            entry = PieceEntry(file, piece.key, piece.offset, tuple(piece.tensor.shape))
            entries[piece.name].append(entry)
    for name, text in (texts or {}).items():
        _write_file(folder / name, text.encode())
    _sync_folder(folder)
    tensors = {
        name: TensorEntry(tuple(shapes[name]), dtypes[name], tuple(entries[name]))
        for name in shapes
    }
    write_index(folder, Index(written, tensors, meta))
    _sync_folder(folder.parent)


def _write_shard(path: Path, pieces: Sequence[Piece]) -> ShardEntry:
    data = serialise({piece.key: _plain(piece.tensor) for piece in pieces})
    _write_file(path, data)
    return ShardEntry(size=len(data), sha256=sha256(data).hexdigest())


def _plain(tensor: Tensor) -> Tensor:
    # A copy: safetensors refuses tensors that share memory, and training may go on meanwhile.
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def write_index(folder: Path, index: Index) -> None:
    """Makes the folder a checkpoint: everything else must be on disk."""
    text = json.dumps(index.to_json(), indent=1, allow_nan=False)
    replace_file(folder / INDEX, text.encode())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    _write_file(temporary, data)
    os.rename(temporary, path)
    _sync_folder(path.parent)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
