"""The index of a checkpoint: what is in it and where, as JSON that is written last. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from turnout.checkpoint.blocks import Block
from turnout.config.errors import UserError

INDEX = "index.json"
FORMAT = "turnout"
VERSION = 2


class CheckpointError(UserError):
    """A folder that is not a checkpoint, is damaged, or belongs to another model.

    Attributes:
        agreed: whether all processes of a run raise it, with the number of the one at fault.
    """

    def __init__(self, text: str, agreed: bool = False) -> None:
        super().__init__(text)
        self.agreed = agreed


@dataclass(frozen=True)
class PieceEntry:
    """Where a piece lies: the shard's file name, the key in it, its offset and shape.

    ``crc32`` of its bytes tells which tensor of a damaged file is wrong; the SHA-256 of the file
    is what vouches for it. Checkpoints of earlier versions have none.
    """

    shard: str
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    crc32: int | None = None

    @property
    def block(self) -> Block:
        """What it is of the tensor."""
        return Block(self.offset, self.shape)


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
        """Plain data, signed."""
        return signed(
            {
                "format": FORMAT,
                "version": VERSION,
                "shards": {name: asdict(entry) for name, entry in self.shards.items()},
                "tensors": {name: asdict(entry) for name, entry in self.tensors.items()},
                "meta": dict(self.meta),
            }
        )

    def to_text(self) -> str:
        """The file: a line for each shard and each tensor.

        Raises:
            TypeError, ValueError: ``meta`` holds something that JSON does not.
        """
        parts = []
        for name, value in self.to_json().items():
            if name in ("shards", "tensors"):
                lines = (f"  {json.dumps(key)}: {json.dumps(v)}" for key, v in value.items())
                text = "{\n" + ",\n".join(lines) + "\n }" if value else "{}"
            else:
                text = json.dumps(value, allow_nan=False, indent=1).replace("\n", "\n ")
            parts.append(f" {json.dumps(name)}: {text}")
        return "{\n" + ",\n".join(parts) + "\n}\n"

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


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the SHA-256 of everything else in it, in an order of its own."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    digest = sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {**rest, "sha256": digest}


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
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not an index this version reads: {error}") from None


def shortened(names: Sequence[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _tensor_entry(data: Mapping[str, Any]) -> TensorEntry:
    pieces = tuple(
        PieceEntry(p["shard"], p["key"], _counts(p["offset"]), _counts(p["shape"]), p.get("crc32"))
        for p in data["pieces"]
    )
    return TensorEntry(_counts(data["shape"]), data["dtype"], pieces)


def _counts(numbers: Sequence[object]) -> tuple[int, ...]:
    found = tuple(number for number in numbers if type(number) is int and 0 <= number < 2**62)
    if len(found) != len(numbers):
        raise ValueError(f"{numbers!r} are no counts")
    return found
