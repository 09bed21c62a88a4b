"""Memory of a step beyond weights, gradients and optimiser, from the allocator's own record.

torch's profiler writes down every allocation and release on the host, those inside of operators
included, in order: the figure does not depend on what else the process or the system holds. What a
library allocates by itself, such as oneDNN while it packs a matrix, is not in it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from turnout.bench.timing import Work

Event = tuple[int, int]
"""An address, and the bytes allocated there; below 0 where they are released."""


def beyond(work: Work, weights: Iterable[Tensor]) -> int:
    """The most bytes alive at once of those that ``work`` allocated, gradients of weights left out.

    Args:
        work: a step, called once before it is recorded, so that the optimiser has its state.
        weights: whose gradients do not count; the step may free them at its end.
    """
    work()
    gradients: dict[int, int] = {}

    def note(weight: Tensor) -> None:
        assert weight.grad is not None
        storage = weight.grad.untyped_storage()
        gradients[storage.data_ptr()] = storage.nbytes()

    handles = [
        each.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
        for each in weights
    ]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    for handle in handles:
        handle.remove()
    return peak(list(_events(record)), gradients)


def peak(events: list[Event], ignored: Mapping[int, int]) -> int:
    """The most bytes alive at once; of ``ignored``, addresses and sizes, the last does not count.

    What was there before the record counts for nothing when it is released.
    """
    last = {event: place for place, event in enumerate(events)}
    places = {last[event] for event in ignored.items() if event in last}
    now = most = 0
    alive: dict[int, int] = {}
    for place, (address, size) in enumerate(events):
        if size > 0 and place not in places:
            alive[address] = size
            now += size
        elif size < 0:
            now -= alive.pop(address, 0)
        most = max(most, now)
    return most


def _events(record: Any) -> Iterator[Event]:
    """Allocations and releases in order."""
    found = []
    left = list(record.profiler.kineto_results.experimental_event_tree())
    while left:
        event = left.pop()
        left += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            fields = event.extra_fields
            found.append((event.start_time_ns, event.id, fields.ptr, fields.alloc_size))
    for _, _, address, size in sorted(found):
        yield address, size
