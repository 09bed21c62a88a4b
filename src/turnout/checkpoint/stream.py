"""safetensors files written and read a tensor at a time, so that none is ever in memory whole.

The format: the header's length (8 bytes, little endian), the header (JSON: dtype, shape and place
of each tensor), the tensors' bytes. The library writes a file from a dictionary of all of it.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from turnout.checkpoint.format import CheckpointError, ShardEntry

if TYPE_CHECKING:
    from hashlib import _Hash

MOST_HEADER = 100_000_000  # bytes, as in the library
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
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in a file: its dtype, shape, and the bytes it takes behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def entry(self, number: int) -> "TensorPlace":
        """The place of one entry of the first axis."""
        size = (self.end - self.start) // self.shape[0]
        start = self.start + number * size
        return TensorPlace(self.dtype, self.shape[1:], start, start + size)


@dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_stream(
    path: Path,
    planned: Iterable[Planned],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> ShardEntry:
    """Writes the tensors, which come in the order of ``planned``, and makes the file durable.

    Each is let go of before the next one is asked for.

    Raises:
        ValueError: they are not what was planned.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    place = 0
    plan = list(planned)
    for entry in plan:
        where = [place, place + entry.size]
        shape = list(entry.shape)
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": shape, "data_offsets": where}
        place += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, size = sha256(), 0
    with path.open("wb") as file:
        for head in (len(text).to_bytes(8, "little"), text):
            size += file.write(head)
            digest.update(head)
        arriving = iter(tensors)
        for entry in plan:
            size += _put(entry, next(arriving, None), file, digest)
        if next(arriving, None) is not None:
            raise ValueError("there are more tensors than were planned")
        file.flush()
        os.fsync(file.fileno())
    return ShardEntry(size=size, sha256=digest.hexdigest())


def read_header(path: Path) -> dict[str, TensorPlace]:
    """The tensors of a file, without reading any.

    Raises:
        CheckpointError: it is no whole safetensors file: a header that is too large or is no JSON,
            an unknown dtype, a tensor that is too long, overlaps another or lies outside.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(MOST_HEADER, total - 8):
            raise CheckpointError(
                f"{path}: is no safetensors file: a header of {length:,} bytes, in a file of "
                f"{total:,}; headers have at most {MOST_HEADER:,}"
            )
        text = file.read(length)
    try:
        table = json.loads(text)
        found = {name: _place(value) for name, value in table.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header cannot be read: {error!r}") from None
    _check_places(path, found, total - 8 - length)
    return found


def read_tensor(path: Path, place: TensorPlace) -> Tensor:
    """One tensor, in memory of its own.

    Raises:
        CheckpointError: the file ends before it.
    """
    raw = bytearray(place.end - place.start)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length + place.start)
        if file.readinto(raw) != len(raw):
            raise CheckpointError(f"{path}: ends within a tensor; it is not whole")
    if not raw:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(raw, dtype=place.dtype).view(place.shape)


def _put(entry: Planned, tensor: Tensor | None, file: BinaryIO, digest: "_Hash") -> int:
    """Writes a tensor, and says how many bytes.

    Matrices of many that do not lie as they are written are copied one at a time, not as a whole.
    """
    if tensor is None or tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{entry.name} is not what was planned")
    size = 0
    for part in (tensor,) if tensor.dim() < 3 or tensor.is_contiguous() else tensor:
        flat = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        size += file.write(flat.data)
        digest.update(flat.data)
    return size


def _place(value: Mapping[str, Any]) -> TensorPlace:
    start, end = (_count(number) for number in value["data_offsets"])
    return TensorPlace(
        DTYPES[value["dtype"]], tuple(_count(number) for number in value["shape"]), start, end
    )


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 2**62:
        raise ValueError(f"{number!r} is no count")
    return number


def _check_places(path: Path, found: Mapping[str, TensorPlace], room: int) -> None:
    """Tensors stand side by side, each as long as its shape says, and fill the file."""
    at = 0
    for name, place in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        size = math.prod(place.shape) * place.dtype.itemsize
        if place.start != at or place.end - place.start != size or place.end > room:
            raise CheckpointError(
                f"{path}: {name} lies at {place.start:,} .. {place.end:,}, should be {size:,} "
                f"bytes from {at:,} on, of {room:,} in the file: it is damaged or cut off"
            )
        at = place.end
    if at != room:
        raise CheckpointError(f"{path}: has {room - at:,} bytes that belong to no tensor")
