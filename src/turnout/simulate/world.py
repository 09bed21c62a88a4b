"""A group of any number of ranks in one process: torch's fake one, with tensors without values."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


def as_rank(rank: int, ranks: int, work: Callable[[], T]) -> T:
    """What ``work`` returns where this process is ``rank`` of a fake group.

    It runs in a thread of its own: torch remembers meshes, and with them groups that are gone, in
    caches of each thread.
    """
    future = Future[T]()

    def worker() -> None:
        try:
            with fake_group(rank, ranks):
                found = work()
            future.set_result(found)
        except BaseException as error:  # whatever it is: the caller raises it
            future.set_exception(error)

    Thread(target=worker, daemon=True).start()
    return future.result()


@contextmanager
def fake_group(rank: int, ranks: int) -> Iterator[None]:
    """The default group is one of ``ranks``, of which this process is ``rank``; nobody answers, and
    nothing is sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def without_values() -> Iterator[None]:
    """Tensors made here have shapes and no memory; meshes and layouts have to be there before."""
    with warnings.catch_warnings():
        # FSDP warns of outputs that somebody may change in place, and torch that it looks at the
        # address of a tensor that has none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        with FakeTensorMode(allow_non_fake_inputs=True), _HostNumbers():  # type: ignore[no-untyped-call]
            yield


@final
class _HostNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The numbers that the host reads out of tensors without values: losses, norms, counts.

    1, which is finite and divides; 0 in float64, in which ranks tell each other what went wrong.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return _NUMBERS.get(dtype, 1.0 if dtype.is_floating_point else 1)
        return func(*args, **(kwargs or {}))


_NUMBERS: dict[torch.dtype, Any] = {torch.float64: 0.0, torch.bool: True}
