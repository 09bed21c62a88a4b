"""Saves what several processes hold as one checkpoint, at once or behind the training's back.

All ranks say which blocks they hold; each block is written by one of them, the least burdened of
those that hold it. All write their shards to disk; when all have said so, the first rank writes
the index and renames it into place. Killed before that, the folder is no checkpoint, and the one
before it is whole.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from turnout.checkpoint.blocks import Block, fault_of
from turnout.checkpoint.durable import sync_folder
from turnout.checkpoint.format import (
    CheckpointError,
    Part,
    Piece,
    PieceEntry,
    ShardEntry,
    dtype_name,
    shard_name,
)
from turnout.checkpoint.ranks import Alone, Ranks
from turnout.checkpoint.write import ShardRecord, commit, host_copy, prepare, write_shard

_SAME = "same"  # a message: what was said for the save before holds again


@dataclass(frozen=True)
class Held:
    """A block that a rank holds: shape and dtype of the whole tensor, and where it lies."""

    shape: tuple[int, ...]
    dtype: str
    block: Block
    bytes: int


@dataclass(frozen=True)
class Order:
    """What a rank is to write: the blocks of these tensors, as shard ``number`` of ``count``.

    A number of 0 is for nothing to write.
    """

    number: int
    count: int
    names: tuple[str, ...]


@final
class Saver:
    """Saves checkpoints, one at a time.

    Attributes:
        ranks: the processes that save together.

    Args:
        ranks: by default this one alone; where something else speaks over them meanwhile, a line
            of their own (``ranks.apart()``).
        background: whether ``save`` returns when the tensors are copied to the host, so that they
            may change, and a thread writes; its failure is raised by the next call of any method.
    """

    def __init__(self, ranks: Ranks | None = None, background: bool = False) -> None:
        self.ranks: Ranks = Alone() if ranks is None else ranks
        self._background = background
        self._announced = ""
        self._order: Order | None = None
        self._held: list[dict[str, Held]] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread is writing."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        folder: Path,
        parts: Mapping[str, Part],
        meta: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        """Write a checkpoint; called by all ranks, with the same folder.

        A save that is still being written is waited for.

        Args:
            folder: on a disk that all ranks share.
            parts: what this rank holds, by global name.
            meta: plain data; that of rank 0 is written.
            texts: files for people to read, by name; those of rank 0 are written.
            after: called on rank 0 when the checkpoint is complete.

        Raises:
            CheckpointError: the folder already is a checkpoint, the blocks of all ranks do not
                fill a tensor, or a rank could not write: one line that names it.
            OSError: one process alone could not write.
        """
        self.wait()
        order = self._agree(folder, parts, meta)
        pieces = [Piece(name, parts[name].offset, parts[name].tensor) for name in order.names]
        if not self._background:
            self._write(folder, order, pieces, meta, texts, after)
            return
        copies = [Piece(piece.name, piece.offset, host_copy(piece.tensor)) for piece in pieces]
        work = (folder, order, copies, meta, texts, after)
        self._thread = threading.Thread(
            target=self._write_quietly, args=work, name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raises what a save in the background failed with, once; does not wait."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Returns when nothing is being written; raises what ``check`` does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _agree(self, folder: Path, parts: Mapping[str, Part], meta: Mapping[str, Any]) -> Order:
        """This rank's order; it changes only with what the ranks hold."""
        said = _announcement(parts)
        message = _SAME if said == self._announced else said

        def judge(messages: list[str]) -> list[str]:
            prepare(folder, meta)
            if set(messages) == {_SAME}:
                return messages
            before = self._held or [{} for _ in messages]
            held = [
                old if message == _SAME else _heard(message)
                for old, message in zip(before, messages, strict=True)
            ]
            orders = divide(held)
            self._held = held
            return [json.dumps(asdict(order)) for order in orders]

        # Forgotten first: after a failure all say again what they hold.
        self._announced = ""
        answer = self.ranks.consult(lambda: message, judge)
        self._announced = said
        if answer == _SAME and self._order is not None:
            return self._order
        told = json.loads(answer)
        self._order = Order(told["number"], told["count"], tuple(told["names"]))
        return self._order

    def _write(
        self,
        folder: Path,
        order: Order,
        pieces: list[Piece],
        meta: Mapping[str, Any],
        texts: Mapping[str, str] | None,
        after: Callable[[], object] | None,
    ) -> None:
        def work() -> str:
            if not order.number:
                return ""
            record = write_shard(folder, shard_name(order.number, order.count), pieces)
            sync_folder(folder)
            return json.dumps(asdict(record))

        def judge(messages: list[str]) -> list[str]:
            records = [_record(json.loads(message)) for message in messages if message]
            tensors = {
                name: (held.shape, held.dtype) for one in self._held for name, held in one.items()
            }
            commit(folder, records, tensors, meta, texts)
            if after is not None:
                after()
            return [""] * len(messages)

        self.ranks.consult(work, judge)

    def _write_quietly(self, *work: Any) -> None:
        try:
            self._write(*work)
        except BaseException as error:  # raised again in the thread that trains
            self._failure = error


def divide(held: list[dict[str, Held]]) -> list[Order]:
    """Which rank writes which blocks: each one once, bytes spread over those that hold copies.

    Raises:
        CheckpointError: ranks hold different tensors under one name, or leave a hole.
    """
    holders: dict[tuple[str, Block], list[int]] = {}
    wholes: dict[str, tuple[Held, int]] = {}
    for rank, one in enumerate(held):
        for name, part in one.items():
            first, where = wholes.setdefault(name, (part, rank))
            if (part.shape, part.dtype) != (first.shape, first.dtype):
                raise CheckpointError(
                    f"{name} is {first.dtype} {list(first.shape)} on rank {where} and "
                    f"{part.dtype} {list(part.shape)} on rank {rank}: must be one tensor"
                )
            holders.setdefault((name, part.block), []).append(rank)
    blocks: dict[str, list[Block]] = {}
    for name, block in holders:
        blocks.setdefault(name, []).append(block)
    for name, found in blocks.items():
        fault = fault_of(wholes[name][0].shape, found)
        if fault:
            raise CheckpointError(f"what the ranks hold of {name} {fault}")
    load = [0] * len(held)
    names: list[list[str]] = [[] for _ in held]
    sizes = {key: held[ranks[0]][key[0]].bytes for key, ranks in holders.items()}
    # Those that leave no choice first, then the largest.
    for key in sorted(holders, key=lambda key: (len(holders[key]) > 1, -sizes[key])):
        owner = min(holders[key], key=lambda rank: (load[rank], rank))
        load[owner] += sizes[key]
        names[owner].append(key[0])
    writers = [rank for rank, own in enumerate(names) if own] or [0]
    numbers = {rank: number for number, rank in enumerate(writers, start=1)}
    return [Order(numbers.get(rank, 0), len(writers), tuple(own)) for rank, own in enumerate(names)]


def _announcement(parts: Mapping[str, Part]) -> str:
    """What a rank holds, without blocks of nothing, of which a rank has many where few rows are
    spread over many ranks."""
    said = {
        name: [
            list(part.shape),
            dtype_name(part.tensor.dtype),
            list(part.offset),
            list(part.tensor.shape),
            part.tensor.numel() * part.tensor.dtype.itemsize,
        ]
        for name, part in parts.items()
        if part.tensor.numel() or 0 in part.shape
    }
    return json.dumps(said)


def _heard(message: str) -> dict[str, Held]:
    return {
        name: Held(tuple(shape), dtype, Block(tuple(offset), tuple(local)), size)
        for name, (shape, dtype, offset, local, size) in json.loads(message).items()
    }


def _record(data: Mapping[str, Any]) -> ShardRecord:
    pieces = {
        name: PieceEntry(
            piece["shard"],
            piece["key"],
            tuple(piece["offset"]),
            tuple(piece["shape"]),
            piece["crc32"],
        )
        for name, piece in data["pieces"].items()
    }
    return ShardRecord(data["file"], ShardEntry(**data["entry"]), pieces)
