"""Our own checkpoints a tensor at a time, in and out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.format import (
    Index,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    dtype_name,
    named_dtype,
    shard_name,
)
from turnout.checkpoint.reader import Reader
from turnout.checkpoint.stream import Planned, write_stream
from turnout.checkpoint.write import write_index
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.convert.source import Source
from turnout.models.adapters import MARK, delta

MODEL, AVERAGE = "model.", "average."
CARRIED = "huggingface"  # in a run's folder: the files of the checkpoint that it came from


@final
class Native(Source):
    """A checkpoint of a run, each file's SHA-256 checked, no tensor read; the moving averages where
    the run keeps them, and adapters merged unless ``merge`` is False: then it is what they stand
    beside.

    Attributes:
        folder: of the step.
        above: of the run.
        run: the whole configuration.
        meta: everything that the checkpoint says beside its tensors.
        sha256: of the index, which names that of every file.
    """

    def __init__(self, reader: Reader, *, merge: bool = True) -> None:
        folder = reader.folder
        self.folder = folder
        self.meta: Mapping[str, Any] = reader.index.meta
        self.run: RunConfig = io.from_dict(RunConfig, self.meta["config"])
        self.config = self.run.model
        self.sha256 = str(reader.index.to_json()["sha256"])
        inside = folder.parent.name == folders.CHECKPOINTS
        self.above = folder.parent.parent if inside else folder
        self.carried = self.above / CARRIED
        self._reader = reader
        self._merge = merge

    @property
    def names(self) -> list[str]:
        return [name for name in self._all if not self._is_adapter(name)]

    @property
    def adapters(self) -> list[str]:
        """The names of what the run trains beside its matrices, ``MATRIX_lora.a`` and the like."""
        return [name for name in self._all if self._is_adapter(name)]

    def planned(self, name: str) -> Planned:
        return replace(self.planned_as_stored(self._stored(name)), name=name)

    def read(self, name: str) -> Tensor:
        found = self.read_as_stored(self._stored(name))
        parts = [f"{name}{MARK}.{part}" for part in ("a", "b")]
        if not self._merge or self.run.lora is None or parts[0] not in self._all:
            return found
        a, b = (self.read_as_stored(self._stored(part)) for part in parts)
        scale = self.run.lora.alpha / self.run.lora.rank
        return (found.float() + delta(a, b, scale)).to(found.dtype)

    @cached_property
    def _all(self) -> list[str]:
        stored = self._reader.index.tensors
        return [name.removeprefix(MODEL) for name in stored if name.startswith(MODEL)]

    def _is_adapter(self, name: str) -> bool:
        return self.run.lora is not None and name.split(".")[-2].endswith(MARK)

    def section(self, prefix: str) -> list[str]:
        """The names of what the checkpoint holds under a prefix, such as ``optimizer.``."""
        return [name for name in self._reader.index.tensors if name.startswith(prefix)]

    def planned_as_stored(self, name: str) -> Planned:
        """What ``read_as_stored`` will give."""
        entry = self._reader.index.tensors[name]
        return Planned(name, named_dtype(entry.dtype), entry.shape)

    def read_as_stored(self, name: str) -> Tensor:
        """A tensor by its whole name."""
        return self._reader.tensor(name)

    def _stored(self, name: str) -> str:
        average = AVERAGE + name
        return average if average in self._reader.index.tensors else MODEL + name


def open_native(run: Path, *, merge: bool = True) -> Native:
    """The newest checkpoint of a run's folder, or a step's own folder.

    Args:
        merge: adapters into their matrices.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    reader = Reader(folders.latest(run))
    reader.check()
    return Native(reader, merge=merge)


def write_native(
    folder: Path,
    meta: Mapping[str, Any],
    plans: Sequence[Sequence[Planned]],
    tensors: Iterator[Tensor],
) -> None:
    """A step's folder of shards: the weights of a model in the order of the plans."""
    named = [[replace(each, name=MODEL + each.name) for each in plan] for plan in plans]
    write_stored(folder, meta, named, tensors)


def write_stored(
    folder: Path,
    meta: Mapping[str, Any],
    plans: Sequence[Sequence[Planned]],
    tensors: Iterator[Tensor],
) -> None:
    """The same with the whole names, for what is no weight."""
    folder.mkdir(parents=True)
    json.dumps(meta, allow_nan=False)
    shards: dict[str, ShardEntry] = {}
    entries: dict[str, TensorEntry] = {}
    for number, plan in enumerate(plans, start=1):
        file = shard_name(number, len(plans))
        written = write_stream(folder / file, plan, _next(tensors, len(plan)))
        shards[file] = written.entry
        for each in plan:
            origin, crc32 = (0,) * len(each.shape), written.crc32[each.name]
            piece = PieceEntry(file, each.name, origin, each.shape, crc32)
            entries[each.name] = TensorEntry(each.shape, dtype_name(each.dtype), (piece,))
    write_index(folder, Index(shards, entries, meta))


def split(planned: Iterable[Planned], most: int) -> list[list[Planned]]:
    """Shards of at most that many bytes, or of one tensor."""
    found: list[list[Planned]] = [[]]
    size = 0
    for each in planned:
        if found[-1] and size + each.size > most:
            found.append([])
            size = 0
        found[-1].append(each)
        size += each.size
    return found


def _next(tensors: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    for _ in range(count):
        yield next(tensors)
