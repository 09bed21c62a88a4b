"""What a checkpoint folder holds: safetensors shards, and an index.json that is written last.

Nothing in it knows the layout that wrote it: a tensor has a global name, a shape, a dtype and
pieces at offsets; one process is the case of one shard that holds every tensor whole. Tensors
are safetensors, everything else is JSON, and nothing is ever unpickled.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from turnout.checkpoint.blocks import Block
from turnout.checkpoint.index import (
    FORMAT,
    INDEX,
    VERSION,
    CheckpointError,
    Index,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    signed,
)

__all__ = [
    "DTYPES",
    "FORMAT",
    "INDEX",
    "SHARDS",
    "VERSION",
    "Checkpoint",
    "CheckpointError",
    "Index",
    "Part",
    "Piece",
    "PieceEntry",
    "ShardEntry",
    "TensorEntry",
    "dtype_name",
    "key_of",
    "named_dtype",
    "shard_name",
    "signed",
]

SHARDS = "shard-*-of-*.safetensors"  # what ``shard_name`` makes
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Piece:
    """A block of a tensor: ``tensor`` starts at ``offset`` of the global tensor ``name``."""

    name: str
    offset: tuple[int, ...]
    tensor: Tensor

    @property
    def key(self) -> str:
        """Its name in the shard."""
        return key_of(self.name, self.offset)


@dataclass(frozen=True)
class Part:
    """What one rank holds of a global tensor: ``tensor`` starts at ``offset`` of ``shape``."""

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    tensor: Tensor

    @staticmethod
    def whole(tensor: Tensor) -> "Part":
        """All of it."""
        return Part(tuple(tensor.shape), (0,) * tensor.dim(), tensor)

    @property
    def block(self) -> Block:
        """Where it lies."""
        return Block(self.offset, tuple(self.tensor.shape))


@dataclass(frozen=True)
class Checkpoint:
    """What ``load`` returns: whole tensors on the CPU and the writer's JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def key_of(name: str, offset: tuple[int, ...]) -> str:
    """The global name, with the offset where that is not the origin."""
    return f"{name}@{','.join(map(str, offset))}" if any(offset) else name


def shard_name(number: int, count: int) -> str:
    """The file of shard ``number`` of ``count``, from 1 on."""
    return f"shard-{number:05d}-of-{count:05d}.safetensors"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def named_dtype(name: str) -> torch.dtype:
    """``torch.float32`` for ``float32``.

    Raises:
        CheckpointError: no tensor of a checkpoint has that dtype.
    """
    found = {dtype_name(dtype): dtype for dtype in DTYPES.values()}.get(name)
    if found is None:
        raise CheckpointError(f"dtype {name!r}: must be one of those that safetensors holds")
    return found
