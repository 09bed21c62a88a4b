"""Ways to bring tokens to experts and back."""

from typing import Any

from turnout.config.moe import DispatcherName
from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.moe.dispatch.einsum import EinsumDispatcher
from turnout.moe.dispatch.sorted import SortedDispatcher

__all__ = [
    "Dispatched",
    "Dispatcher",
    "EinsumDispatcher",
    "Granted",
    "SortedDispatcher",
    "build_dispatcher",
]


def build_dispatcher(name: DispatcherName) -> Dispatcher[Any]:
    """The dispatcher of that name."""
    dispatchers: dict[str, Dispatcher[Any]] = {
        "sorted": SortedDispatcher(),
        "einsum": EinsumDispatcher(),
    }
    return dispatchers[name]
