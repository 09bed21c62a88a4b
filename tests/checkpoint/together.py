"""Several ranks in one process: a thread each, that agree over a store in memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed import HashStore

from turnout.checkpoint.blocks import Block
from turnout.checkpoint.ranks import OverStore, Ranks

T = TypeVar("T")


def on_ranks(
    size: int, work: Callable[[Ranks], T], timeout: timedelta = timedelta(seconds=60)
) -> list[T | Exception]:
    """What ``work`` returns, or raises, on each rank."""
    store = HashStore()

    def run(rank: int) -> T | Exception:
        try:
            return work(OverStore(store, rank, size, timeout))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def fine(results: list[T | Exception]) -> list[T]:
    """The results, where no rank failed."""
    found: list[T] = []
    for result in results:
        if isinstance(result, Exception):
            raise result
        found.append(result)
    return found


def partition(data: st.DataObject, shape: tuple[int, ...], most: int = 6) -> list[Block]:
    """Blocks that fill a tensor once, from cuts anywhere: not only those of a mesh."""
    blocks = [Block.whole(shape)]
    for _ in range(data.draw(st.integers(0, most))):
        block = blocks.pop(data.draw(st.integers(0, len(blocks) - 1)))
        dims = [dim for dim, size in enumerate(block.shape) if size > 1]
        if not dims:
            blocks.append(block)
            continue
        dim = data.draw(st.sampled_from(dims))
        at = data.draw(st.integers(1, block.shape[dim] - 1))
        first, second = list(block.shape), list(block.shape)
        first[dim], second[dim] = at, block.shape[dim] - at
        moved = list(block.offset)
        moved[dim] += at
        blocks += [Block(block.offset, tuple(first)), Block(tuple(moved), tuple(second))]
    return blocks


def box(data: st.DataObject, shape: tuple[int, ...]) -> Block:
    """Any block inside, empty ones too."""
    starts = [data.draw(st.integers(0, size)) for size in shape]
    sizes = [
        data.draw(st.integers(0, size - start)) for start, size in zip(starts, shape, strict=True)
    ]
    return Block(tuple(starts), tuple(sizes))


def cut(tensor: Tensor, block: Block) -> Tensor:
    """The entries of a block."""
    return tensor[block.within(Block.whole(tuple(tensor.shape)))]


def numbered(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose entries differ, as far as the dtype can tell them apart."""
    count = torch.arange(1, 1 + torch.Size(shape).numel())
    return (count % 2 if dtype == torch.bool else count % 251).to(dtype).view(shape)
