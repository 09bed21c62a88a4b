"""Our own checkpoints a tensor at a time, in and out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, final

from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.format import (
    CheckpointError,
    Index,
    PieceEntry,
    ShardEntry,
    TensorEntry,
    dtype_name,
)
from turnout.checkpoint.read import assemble, load_index
from turnout.checkpoint.stream import Planned, TensorPlace, read_header, read_tensor, write_stream
from turnout.checkpoint.write import write_index
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.convert.source import Source

MODEL, AVERAGE = "model.", "average."
CARRIED = "huggingface"  # in a run's folder: the files of the checkpoint that it came from
CHUNK = 2**20


@final
class Native(Source):
    """A checkpoint of a run, each file's SHA-256 checked, no tensor read; the moving averages where
    the run keeps them.

    Attributes:
        folder: of the step.
        run: the whole configuration.
    """

    def __init__(
        self, folder: Path, index: Index, places: Mapping[str, Mapping[str, TensorPlace]]
    ) -> None:
        self.folder = folder
        self.run: RunConfig = io.from_dict(RunConfig, index.meta["config"])
        self.config = self.run.model
        above = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        self.carried = above / CARRIED
        self._index = index
        self._places = places

    @property
    def names(self) -> list[str]:
        return [name.removeprefix(MODEL) for name in self._index.tensors if name.startswith(MODEL)]

    def planned(self, name: str) -> Planned:
        entry = self._entry(name)
        piece = entry.pieces[0]
        return Planned(name, self._places[piece.shard][piece.key].dtype, entry.shape)

    def read(self, name: str) -> Tensor:
        entry = self._entry(name)
        shards: dict[str, dict[str, Tensor]] = {}
        for piece in entry.pieces:
            place = self._places[piece.shard][piece.key]
            found = shards.setdefault(piece.shard, {})
            found[piece.key] = read_tensor(self.folder / piece.shard, place)
        return assemble(name, entry, shards)

    def _entry(self, name: str) -> TensorEntry:
        return self._index.tensors.get(AVERAGE + name) or self._index.tensors[MODEL + name]


def open_native(run: Path) -> Native:
    """The newest checkpoint of a run's folder, or a step's own folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = folders.latest(run)
    index = load_index(folder)
    places = {name: _checked(folder, name, entry) for name, entry in index.shards.items()}
    for name, tensor in index.tensors.items():
        for piece in tensor.pieces:
            if piece.key not in places.get(piece.shard, {}):
                raise CheckpointError(f"{folder}: {piece.shard} does not hold {piece.key} ({name})")
    return Native(folder, index, places)


def write_native(
    folder: Path,
    meta: Mapping[str, Any],
    plans: Sequence[Sequence[Planned]],
    tensors: Iterator[Tensor],
) -> None:
    """A step's folder of shards, the tensors in the order of the plans."""
    folder.mkdir(parents=True)
    json.dumps(meta, allow_nan=False)
    shards: dict[str, ShardEntry] = {}
    entries: dict[str, TensorEntry] = {}
    for number, plan in enumerate(plans, start=1):
        file = f"shard-{number:05d}-of-{len(plans):05d}.safetensors"
        named = [Planned(MODEL + each.name, each.dtype, each.shape) for each in plan]
        shards[file] = write_stream(folder / file, named, _next(tensors, len(named)))
        for each in named:
            piece = PieceEntry(file, each.name, (0,) * len(each.shape), each.shape)
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


def _checked(folder: Path, name: str, entry: ShardEntry) -> dict[str, TensorPlace]:
    path = folder / name
    if path.name != name:
        raise CheckpointError(f"{folder}: the index names a shard outside the folder: {name!r}")
    if not path.is_file() or path.stat().st_size != entry.size:
        raise CheckpointError(f"{path} is missing or cut off: the checkpoint is damaged")
    digest = sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    if digest.hexdigest() != entry.sha256:
        raise CheckpointError(f"{path} does not have its SHA-256: the checkpoint is damaged")
    return read_header(path)
