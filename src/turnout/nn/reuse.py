"""Memory of large tensors on a CPU that the next one as large takes over, pages and all.

A tensor of many megabytes comes from the system in pages that are yet to be found, and goes back to
it when it is freed; or stays in the heap, where small tensors settle in the middle of it. The
gradients of stacked experts are such tensors, anew in every step: on a virtual machine asking for
their pages took longer than computing them (docs/results/layer.md).
"""

import mmap
import weakref
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import final

import torch
from torch import Tensor

LARGE = 1 << 24  # bytes; what is smaller the C library keeps by itself
AVAILABLE = hasattr(mmap, "MAP_ANONYMOUS")


@final
class Pool:
    """Gives out tensors whose memory comes back when nobody holds it any more, for the next one of
    the same size. What is free stays with the process until ``clear``."""

    def __init__(self, least: int = LARGE) -> None:
        self._least = least
        self._free: dict[int, list[mmap.mmap]] = {}

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU that holds anything."""
        size = prod(shape) * dtype.itemsize
        if size < self._least or not AVAILABLE:
            return torch.empty(tuple(shape), dtype=dtype)
        free = self._free.setdefault(size, [])
        room = free.pop() if free else _mapped(size)
        view = memoryview(room)  # what the tensor holds, as long as anything holds its memory
        weakref.finalize(view, free.append, room).atexit = False
        return torch.frombuffer(view, dtype=dtype).view(tuple(shape))

    @property
    def free(self) -> int:
        """Bytes that no tensor holds."""
        return sum(size * len(rooms) for size, rooms in self._free.items())

    def clear(self) -> None:
        """Gives what is free back to the system."""
        for rooms in self._free.values():
            rooms.clear()


def _mapped(size: int) -> mmap.mmap:
    """Of this process alone, in large pages where the system has them."""
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            room.madvise(mmap.MADV_HUGEPAGE)
    return room


GRADIENTS = Pool()
"""Of weights of experts."""
