"""Reads a checkpoint and believes nothing: sizes, hashes, shapes, dtypes, coverage are checked."""

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from torch import Tensor

from turnout.checkpoint.format import (
    INDEX,
    Checkpoint,
    CheckpointError,
    Index,
    ShardEntry,
    TensorEntry,
    dtype_name,
)


def load(folder: Path) -> Checkpoint:
    """All tensors of a checkpoint, assembled from their pieces.

    Raises:
        CheckpointError: one line that names the file and what is wrong with it.
    """
    folder = Path(folder)
    index = load_index(folder)
    shards = {name: _read_shard(folder, name, entry) for name, entry in index.shards.items()}
    tensors = {name: assemble(name, entry, shards) for name, entry in index.tensors.items()}
    claimed = {(p.shard, p.key) for entry in index.tensors.values() for p in entry.pieces}
    stray = [
        key for file, content in shards.items() for key in content if (file, key) not in claimed
    ]
    if stray:
        raise CheckpointError(f"{folder}: tensors the index does not name: {shortened(stray)}")
    return Checkpoint(tensors, dict(index.meta))


def load_meta(folder: Path) -> dict[str, Any]:
    """The JSON beside the tensors, without reading them."""
    return dict(load_index(Path(folder)).meta)


def load_index(folder: Path) -> Index:
    """The index of a checkpoint folder.

    Raises:
        CheckpointError: there is none, or not one that this version reads.
    """
    path = folder / INDEX
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: it has no {INDEX}; give a run folder or one "
            "of its step folders"
        )
    try:
        return Index.from_json(json.loads(path.read_bytes()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index this version reads: {error}") from None


def match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Refuse unless both hold the same names, shapes and dtypes.

    Raises:
        CheckpointError: one line with both lists, shortened: this is another model's checkpoint.
    """
    unused = sorted(found.keys() - wanted.keys())
    unfilled = sorted(wanted.keys() - found.keys())
    if unused or unfilled:
        raise CheckpointError(
            f"{what} belongs to another model: it has {shortened(unused)} which this model has "
            f"not, and lacks {shortened(unfilled)}"
        )
    wrong = [
        f"{name} is {_describe(found[name])}, must be {_describe(wanted[name])}"
        for name in sorted(wanted)
        if found[name].shape != wanted[name].shape or found[name].dtype != wanted[name].dtype
    ]
    if wrong:
        raise CheckpointError(f"{what} belongs to another model: {shortened(wrong)}")


def shortened(names: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read_shard(folder: Path, name: str, entry: ShardEntry) -> dict[str, Tensor]:
    path = folder / name
    if path.name != name:
        raise CheckpointError(f"{folder}: the index names a shard outside the folder: {name!r}")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is damaged")
    data = path.read_bytes()
    if len(data) != entry.size:
        raise CheckpointError(
            f"{path} has {len(data)} bytes, must have {entry.size}: the checkpoint is damaged"
        )
    if sha256(data).hexdigest() != entry.sha256:
        raise CheckpointError(f"{path} does not have its SHA-256: the checkpoint is damaged")
    try:
        return dict(deserialise(data))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def assemble(name: str, entry: TensorEntry, shards: Mapping[str, dict[str, Tensor]]) -> Tensor:
    """A whole tensor from its pieces, by shard and key.

    Raises:
        CheckpointError: they are not what the index says, overlap, or leave a hole.
    """
    parts = []
    for piece in entry.pieces:
        part = shards.get(piece.shard, {}).get(piece.key)
        if (
            part is None
            or tuple(part.shape) != piece.shape
            or dtype_name(part.dtype) != entry.dtype
        ):
            raise CheckpointError(f"{piece.shard} does not hold {piece.key} as the index says")
        parts.append((piece, part))
    if sum(math.prod(piece.shape) for piece, _ in parts) != math.prod(entry.shape):
        raise CheckpointError(f"the pieces of {name} do not fill its shape {list(entry.shape)}")
    if len(parts) == 1 and parts[0][0].shape == entry.shape:
        return parts[0][1]
    whole = torch.empty(entry.shape, dtype=parts[0][1].dtype)
    filled = torch.zeros(entry.shape, dtype=torch.bool)
    for piece, part in parts:
        where = tuple(
            slice(start, start + size)
            for start, size in zip(piece.offset, piece.shape, strict=True)
        )
        if whole[where].shape != part.shape:
            raise CheckpointError(f"a piece of {name} lies outside its shape {list(entry.shape)}")
        whole[where] = part
        filled[where] = True
    if not bool(filled.all()):
        raise CheckpointError(f"the pieces of {name} overlap and leave a hole")
    return whole


def _describe(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
