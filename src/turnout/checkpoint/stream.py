"""safetensors files written and read a tensor at a time, so that none is ever in memory whole.

The format: the header's length (8 bytes, little endian), the header (JSON: dtype, shape and place
of each tensor), the tensors' bytes. The library writes a file from a dictionary of all of it.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from turnout.checkpoint.durable import Sink
from turnout.checkpoint.format import DTYPES, CheckpointError, ShardEntry

MOST_HEADER = 100_000_000  # bytes, as in the library
MOST_READ = 2**24  # bytes that are read at once where a part of a tensor is wanted
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

    def rows(self, first: int, last: int) -> "TensorPlace":
        """The place of entries ``first`` to ``last`` (not included) of the first axis."""
        size = (self.end - self.start) // self.shape[0]
        shape = (last - first, *self.shape[1:])
        return TensorPlace(self.dtype, shape, self.start + first * size, self.start + last * size)


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


@dataclass(frozen=True)
class Written:
    """A file that is on disk, and the CRC-32 of the bytes of each tensor in it."""

    entry: ShardEntry
    crc32: Mapping[str, int]


def write_stream(
    path: Path,
    planned: Iterable[Planned],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """Writes the tensors, which come in the order of ``planned``, and makes the file durable.

    Each is let go of before the next one is asked for.

    Raises:
        ValueError: they are not what was planned.
    """
    plan = list(planned)
    return write_runs(path, plan, _whole(plan, tensors), metadata)


def write_runs(
    path: Path,
    planned: Sequence[Planned],
    tensors: Iterable[Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """Writes tensors that come in parts, in the order of ``planned``, and makes the file durable.

    Args:
        tensors: for each one, its entries in row-major order, cut wherever it suits.

    Raises:
        ValueError: a tensor has not as many bytes as was planned.
    """
    crc32: dict[str, int] = {}
    with path.open("wb") as raw:
        sink = Sink(raw)
        sink.put(_header(planned, metadata))
        arriving = iter(tensors)
        for entry in planned:
            crc32[entry.name] = _put(sink, entry, next(arriving, ()))
        if next(arriving, None) is not None:
            raise ValueError("there are more tensors than were planned")
        return Written(sink.close(), crc32)


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
    with open_tensors(path) as file:
        return file.read(place)


@contextmanager
def open_tensors(path: Path) -> Iterator["TensorFile"]:
    """A safetensors file to read several tensors of, or parts of some."""
    with path.open("rb") as file:
        yield TensorFile(path, file, 8 + int.from_bytes(file.read(8), "little"))


@final
@dataclass(frozen=True)
class TensorFile:
    """An open file; ``start`` is where the bytes behind the header begin."""

    path: Path
    file: BufferedReader
    start: int

    def read(self, place: TensorPlace) -> Tensor:
        """A whole tensor, in memory of its own.

        Raises:
            CheckpointError: the file ends before it.
        """
        raw = bytearray(place.end - place.start)
        self.file.seek(self.start + place.start)
        if self.file.readinto(raw) != len(raw):
            raise CheckpointError(f"{self.path}: ends within a tensor; it is not whole")
        if not raw:
            return torch.empty(place.shape, dtype=place.dtype)
        return torch.frombuffer(raw, dtype=place.dtype).view(place.shape)

    def fill(self, target: Tensor, place: TensorPlace, where: Sequence[slice]) -> None:
        """Copies the entries ``where`` of a tensor to ``target``, of the same shape.

        At most ``MOST_READ`` bytes, or one row of few, are in memory beside it.
        """
        if not target.numel():
            return
        if not place.shape:
            target.copy_(self.read(place))
            return
        rows, *inner = where
        row = (place.end - place.start) // place.shape[0]
        if row > MOST_READ and len(place.shape) > 1:
            for number in range(rows.start, rows.stop):
                self.fill(target[number - rows.start], place.entry(number), inner)
            return
        step = max(MOST_READ // row, 1)
        for first in range(rows.start, rows.stop, step):
            last = min(first + step, rows.stop)
            part = self.read(place.rows(first, last))[(slice(None), *inner)]
            target[first - rows.start : last - rows.start].copy_(part)


def _header(planned: Sequence[Planned], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    place = 0
    for entry in planned:
        where = [place, place + entry.size]
        shape = list(entry.shape)
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": shape, "data_offsets": where}
        place += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _put(sink: Sink, entry: Planned, parts: Iterable[Tensor]) -> int:
    """Writes a tensor; returns its CRC-32."""
    before, crc32 = sink.size, 0
    for part in parts:
        crc32 = zlib.crc32(sink.put(_bytes(part)), crc32)
    if sink.size - before != entry.size:
        raise ValueError(f"{entry.name} is not what was planned")
    return crc32


def _whole(planned: Sequence[Planned], tensors: Iterable[Tensor]) -> Iterator[Iterable[Tensor]]:
    """Each tensor in parts, if it is what was planned.

    Matrices of many that do not lie as they are written are copied one at a time, not as a whole.
    """
    arriving = iter(tensors)
    for entry in planned:
        tensor = next(arriving, None)
        if tensor is None or tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
            raise ValueError(f"{entry.name} is not what was planned")
        yield (tensor,) if tensor.dim() < 3 or tensor.is_contiguous() else tensor
        del tensor  # let go of before the next one is asked for
    yield from ((tensor,) for tensor in arriving)


def _bytes(part: Tensor) -> memoryview:
    return part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


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
