"""What a checkpoint folder holds: safetensors shards, and an index.json that is written last.

Nothing in it knows the layout that wrote it: a tensor has a global name, a shape, a dtype and
pieces at offsets; one process is the case of one shard that holds every tensor whole. Tensors
are safetensors, everything else is JSON, and nothing is ever unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from turnout.config.errors import UserError

INDEX = "index.json"
FORMAT = "turnout"
VERSION = 2


class CheckpointError(UserError):
    """A folder that is not a checkpoint, is damaged, or belongs to another model."""


@dataclass(frozen=True)
class Piece:
    """A block of a tensor: ``tensor`` starts at ``offset`` of the global tensor ``name``."""

    name: str
    offset: tuple[int, ...]
    tensor: Tensor

    @property
    def key(self) -> str:
        """Its name in the shard: the global name, with the offset where that is not the origin."""
        if not any(self.offset):
            return self.name
        return f"{self.name}@{','.join(map(str, self.offset))}"


@dataclass(frozen=True)
class PieceEntry:
    """Where a piece lies: the shard's file name, the key in it, its offset and shape."""

    shard: str
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorEntry:
    """A global tensor: its shape, its dtype's name and its pieces."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[PieceEntry, ...]


@dataclass(frozen=True)
class ShardEntry:
    """A file: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The content of index.json; ``meta`` is whatever JSON the writer adds.

    The file also holds its own SHA-256, so that a flipped bit in a number is noticed too.
    """

    shards: Mapping[str, ShardEntry]
    tensors: Mapping[str, TensorEntry]
    meta: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return signed(
            {
                "format": FORMAT,
                "version": VERSION,
                "shards": {name: asdict(entry) for name, entry in self.shards.items()},
                "tensors": {name: asdict(entry) for name, entry in self.tensors.items()},
                "meta": dict(self.meta),
            }
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Index":
        """Raises KeyError, TypeError or ValueError on anything malformed."""
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError(f"format {data['format']!r} version {data['version']!r}")
        if signed(data) != data:
            raise ValueError("it does not have its SHA-256: the checkpoint is damaged")
        return Index(
            shards={name: ShardEntry(**entry) for name, entry in data["shards"].items()},
            tensors={name: _tensor_entry(entry) for name, entry in data["tensors"].items()},
            meta=data["meta"],
        )


@dataclass(frozen=True)
class Checkpoint:
    """What ``load`` returns: whole tensors on the CPU and the writer's JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the SHA-256 of everything else in it, in an order of its own."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    digest = sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {**rest, "sha256": digest}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _tensor_entry(data: Mapping[str, Any]) -> TensorEntry:
    pieces = tuple(
        PieceEntry(p["shard"], p["key"], tuple(p["offset"]), tuple(p["shape"]))
        for p in data["pieces"]
    )
    return TensorEntry(tuple(data["shape"]), data["dtype"], pieces)
