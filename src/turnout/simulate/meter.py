"""Counts what a training step does, operator by operator: on a fake group or on a real one."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from turnout.models.base import Model
from turnout.moe.dispatch.base import Dispatched, Dispatcher, Granted
from turnout.parallel.apply import sparse_sublayers
from turnout.simulate.collectives import Call, call_of
from turnout.simulate.live import Kind, Live, in_backward

TicketT = TypeVar("TicketT")


@final
class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered every operator of this process goes by it.

    Attributes:
        calls: the collectives, in order.
        flops: arithmetic by torch's own formulas, and those of our operators.
        live: memory that is alive.
        kept: bytes by kind when a backward pass began, of the fullest of those moments.

    Args:
        axes: the axis of each process group, by its name.
    """

    def __init__(self, axes: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.flops = 0
        self.live = Live()
        self.kept: Counter[Kind] = Counter()
        self._axes = axes
        self._formulas = dict(FlopCounterMode(display=False).flop_registry)
        self._dispatching = False
        self._before = False
        self._stack = ExitStack()

    def __enter__(self) -> "Meter":
        self._stack.enter_context(self.live.watching_sizes())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if DTensor in types:
            return NotImplemented  # its operators on this rank's part come by in their turn
        kwargs = kwargs or {}
        self._look(func, args)
        out = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        kind = self._kind(func, args)
        for leaf in _pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.live.see(leaf, kind)
        return out

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """What is made here are rows that travel, and the tables that lead them."""
        before, self._dispatching = self._dispatching, True
        yield
        self._dispatching = before

    def _look(self, func: Any, args: tuple[Any, ...]) -> None:
        call = call_of(func, args, self._axes)
        if call is not None:
            self.calls.append(call)
        # Forward passes end where a backward one begins, and within it where a layer that was
        # computed again is done.
        backward = in_backward() and not torch.is_grad_enabled()
        if backward and not self._before and _passing(self.live.now) > _passing(self.kept):
            self.kept = self.live.now.copy()
        self._before = backward

    def _kind(self, func: Any, args: tuple[Any, ...]) -> Kind:
        if self._dispatching:
            return "dispatch"
        if func._opname == "_to_copy" and self.live.kind(args[0]) in ("weights", "gathered"):
            return "casts"
        return "activations"


def _passing(kinds: Counter[Kind]) -> int:
    return kinds["dispatch"] + kinds["activations"]


@final
class MeteredDispatcher(Dispatcher[TicketT]):
    """Another dispatcher, whose rows and tables are booked as such."""

    def __init__(self, inner: Dispatcher[TicketT], meter: Meter) -> None:
        self.inner = inner
        self.meter = meter
        self.needs_slots = inner.needs_slots

    def dispatch(self, x: Tensor, granted: Granted) -> Dispatched[TicketT]:
        with self.meter.dispatching():
            return self.inner.dispatch(x, granted)

    def combine(self, rows: Tensor, ticket: TicketT) -> Tensor:
        with self.meter.dispatching():
            return self.inner.combine(rows, ticket)


def meter_dispatch(model: Model, meter: Meter) -> None:
    """Have ``meter`` know of the rows of every sparse layer of a model that is laid out."""
    for sublayer in sparse_sublayers(model):
        sublayer.moe.dispatcher = MeteredDispatcher(sublayer.moe.dispatcher, meter)
