"""Which memory is alive, and what it is for: storages, from their first operator to their end."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, UntypedStorage

Kind = str
"""Such as ``weights``, ``gathered`` weights in one piece, or ``activations``."""


@dataclass
class Live:
    """Bytes of all storages that are alive, by kind; a moment when they were most is kept.

    Attributes:
        now: bytes by kind.
        fullest: those of the moment with most bytes.
    """

    now: Counter[Kind] = field(default_factory=Counter)
    fullest: Counter[Kind] = field(default_factory=Counter)
    _most: int = 0
    _total: int = 0
    _held: dict[int, tuple[weakref.ref[UntypedStorage], Kind, int]] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """The most bytes that were alive at once."""
        return self._most

    def see(self, tensor: Tensor, kind: Kind) -> None:
        """A tensor was made or met; its storage has this kind unless it is known already."""
        self._hold(tensor.untyped_storage(), kind)

    def kind(self, tensor: Tensor) -> Kind | None:
        """What a tensor's storage is for."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        return None if held is None else held[1]

    def rename(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Give the storages of tensors another kind."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.see(tensor, kind)
            ref, old, size = self._held[storage._cdata]
            self._held[storage._cdata] = (ref, kind, size)
            self._add(old, -size)
            self._add(kind, size)

    @contextmanager
    def watching_sizes(self) -> Iterator[None]:
        """FSDP empties and fills storages by no operator: what changes so is a gathered weight."""
        resize: Callable[[UntypedStorage, int], Any] = UntypedStorage.resize_

        def resized(storage: UntypedStorage, size: int) -> Any:
            found = resize(storage, size)
            self._hold(storage, "gathered")
            return found

        with mock.patch.object(UntypedStorage, "resize_", resized):
            yield

    def _hold(self, storage: UntypedStorage, kind: Kind) -> None:
        key = storage._cdata
        if key not in self._held:
            ref = weakref.ref(storage, lambda _: self._forget(key))
            self._held[key] = (ref, kind, 0)
        ref, kind, before = self._held[key]
        size = storage.nbytes()
        if size != before:
            self._held[key] = (ref, kind, size)
            self._add(kind, size - before)

    def _add(self, kind: Kind, size: int) -> None:
        self.now[kind] += size
        self._total += size
        if self._total > self._most:
            self._most = self._total
            self.fullest = self.now.copy()

    def _forget(self, key: int) -> None:
        _, kind, size = self._held.pop(key)
        self._add(kind, -size)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def in_backward() -> bool:
    """Whether autograd is computing gradients."""
    found: bool = torch._C._current_graph_task_id() != -1
    return found
