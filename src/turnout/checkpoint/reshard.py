"""Writes a checkpoint again over another number of shards, a few megabytes in memory at a time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.blocks import Block, runs
from turnout.checkpoint.durable import sync_folder
from turnout.checkpoint.format import INDEX, PieceEntry, key_of, named_dtype, shard_name
from turnout.checkpoint.reader import Reader
from turnout.checkpoint.stream import Planned, write_runs
from turnout.checkpoint.write import ShardRecord, commit, prepare
from turnout.config.errors import UserError

# What is done and how many bytes there are; within it, bytes as they are done.
Display = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
MOST = 2**24  # bytes of a tensor in memory at a time, or one row of its innermost dimension


@dataclass(frozen=True)
class Cut:
    """A block of a tensor that goes into one shard."""

    name: str
    block: Block


def spread(reader: Reader, count: int) -> list[list[Cut]]:
    """Which blocks go into which of ``count`` shards: equal bytes, as near as whole rows allow.

    The tensors stand in a row, in the order of the index, and are cut between rows of their first
    dimension where a shard is full.
    """
    total = sum(_size(reader, name) for name in reader.index.tensors)
    shards: list[list[Cut]] = [[] for _ in range(count)]
    at = 0
    for name, entry in reader.index.tensors.items():
        size, first = _size(reader, name), 0
        rows = entry.shape[0] if entry.shape and size else 1
        row, inner = size // rows, entry.shape[1:]
        while first < rows:
            number = min((at + first * row) * count // max(total, 1), count - 1)
            end = -(-(number + 1) * total // count)  # where the next shard begins
            last = min(rows, max(first + 1, -(-(end - at) // max(row, 1))))
            block = Block.whole(entry.shape)
            if (first, last) != (0, rows):
                block = Block((first, *(0,) * len(inner)), (last - first, *inner))
            shards[number].append(Cut(name, block))
            first = last
        at += size
    return [shard for shard in shards if shard] or [[]]


def reshard(
    reader: Reader, folder: Path, count: int, progress: Callable[[int], None] | None = None
) -> int:
    """Write the checkpoint that ``reader`` has checked into a new folder, over ``count`` shards.

    Args:
        progress: is told how many more bytes were written.

    Returns:
        How many shards there are; fewer where there are not as many rows.

    Raises:
        CheckpointError: the folder already holds a checkpoint.
    """
    shards = spread(reader, count)
    prepare(folder, reader.index.meta)
    records = [
        _write(reader, folder, shard_name(number, len(shards)), cuts, progress)
        for number, cuts in enumerate(shards, start=1)
    ]
    sync_folder(folder)
    tensors = {name: (entry.shape, entry.dtype) for name, entry in reader.index.tensors.items()}
    commit(folder, records, tensors, reader.index.meta)
    return len(shards)


def reshard_run(source: Path, target: Path, count: int, progress: Display) -> Path:
    """Write a run's newest checkpoint, or one of its steps, as the only one of a new run folder.

    What else is in the run's folder comes along: the tokenizer, metrics, pictures. The folder has
    its name when all of it is there.

    Returns:
        The folder of the step.

    Raises:
        CheckpointError: the source is damaged.
        UserError: the target is there already, or the disk has no room.
    """
    if target.exists():
        raise UserError(f"{target} is there already: give a new folder")
    reader = Reader(folders.latest(source))
    total = sum(entry.size for entry in reader.index.shards.values())
    room = shutil.disk_usage(_existing(target.absolute())).free
    if room < total:
        raise UserError(f"{target}: needs {total / 1e9:,.1f} GB, the disk has {room / 1e9:,.1f}")
    with progress(f"checking {reader.folder}", total) as advance:
        reader.check(progress=advance)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folder = folders.step_folder(partial, int(reader.index.meta.get("step", 0)))
    with progress(f"writing {target}", total) as advance:
        reshard(reader, folder, count, advance)
    _copied(reader.folder, folder, lambda path: path.name in {INDEX, *reader.index.shards})
    above = reader.folder.parent
    if above.name == folders.CHECKPOINTS:
        _copied(above.parent, partial, lambda path: path.name == folders.CHECKPOINTS)
    os.rename(partial, target)
    return folders.step_folder(target, int(reader.index.meta.get("step", 0)))


def _existing(path: Path) -> Path:
    """The folder that is there, of those that lead to a path."""
    return path if path.exists() else _existing(path.parent)


def _write(
    reader: Reader,
    folder: Path,
    file: str,
    cuts: list[Cut],
    progress: Callable[[int], None] | None,
) -> ShardRecord:
    entries = reader.index.tensors
    ordered = sorted(cuts, key=lambda cut: -named_dtype(entries[cut.name].dtype).itemsize)
    planned = [
        Planned(
            key_of(cut.name, cut.block.offset),
            named_dtype(entries[cut.name].dtype),
            cut.block.shape,
        )
        for cut in ordered
    ]
    written = write_runs(folder / file, planned, (_parts(reader, cut, progress) for cut in ordered))
    pieces = {
        cut.name: PieceEntry(
            file, plan.name, cut.block.offset, cut.block.shape, written.crc32[plan.name]
        )
        for cut, plan in zip(ordered, planned, strict=True)
    }
    return ShardRecord(file, written.entry, pieces)


def _parts(reader: Reader, cut: Cut, progress: Callable[[int], None] | None) -> Iterator[Tensor]:
    """The entries of a block in their order, a few at a time."""
    most = MOST // named_dtype(reader.index.tensors[cut.name].dtype).itemsize
    for run in runs(cut.block.shape, most):
        moved = tuple(a + b for a, b in zip(cut.block.offset, run.offset, strict=True))
        part = reader.block(cut.name, Block(moved, run.shape))
        yield part
        if progress is not None:
            progress(part.nbytes)


def _size(reader: Reader, name: str) -> int:
    entry = reader.index.tensors[name]
    return Block.whole(entry.shape).size * named_dtype(entry.dtype).itemsize


def _copied(source: Path, target: Path, but: Callable[[Path], bool]) -> None:
    """Copies what lies in a folder, without the files and folders that ``but`` names."""
    for path in source.iterdir():
        if but(path):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)
