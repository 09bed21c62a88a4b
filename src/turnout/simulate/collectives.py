"""What torch's process groups were asked for: which operation, over whom, how many bytes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils import _pytree

from turnout.parallel.mesh import Meshes

# The name of an operator below ``c10d``; whether its size is that of what goes in, or comes out.
_OPERATIONS = {
    "allreduce_": ("all_reduce", "in"),
    "allgather_": ("all_gather", "out"),
    "_allgather_base_": ("all_gather", "out"),
    "allgather_into_tensor_coalesced_": ("all_gather", "out"),
    "reduce_scatter_": ("reduce_scatter", "in"),
    "_reduce_scatter_base_": ("reduce_scatter", "in"),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", "in"),
    "alltoall_base_": ("all_to_all", "in"),
    "alltoall_": ("all_to_all", "in"),
    "broadcast_": ("broadcast", "in"),
    "barrier": ("barrier", "in"),
}
_WAITS = {"wait_tensor", "monitored_barrier_"}


@dataclass(frozen=True)
class Call:
    """One collective. ``size`` is the bytes of the larger buffer: what a gathering makes, what a
    scattering takes, what a sum sums; of an all-to-all what the rank sends, its own part included.
    """

    operation: str
    axis: str
    group: int
    size: int


@dataclass(frozen=True)
class Calls:
    """``count`` calls of the same operation over the same ranks, each of ``size`` bytes."""

    operation: str
    axis: str
    group: int
    count: int
    size: int


def counted(calls: list[Call]) -> tuple[Calls, ...]:
    """Calls that are alike as one, in the order of their first; over one rank none leaves it."""
    return tuple(
        Calls(call.operation, call.axis, call.group, count, call.size)
        for call, count in Counter(calls).items()
        if call.group > 1
    )


def axes(meshes: Meshes) -> dict[str, str]:
    """The axis of each process group, by its name; ``world`` where it is all ranks."""
    found: dict[str, str] = {}
    for mesh, prefix in ((meshes.experts, "expert "), (meshes.dense, "")):
        for axis in mesh.mesh_dim_names or ():
            plain = axis in ("expert", "tensor")
            found[mesh.get_group(axis).group_name] = axis if plain else prefix + axis
    found[dist.distributed_c10d._get_default_group().group_name] = "world"
    return found


def call_of(func: Any, args: tuple[Any, ...], axis: Mapping[str, str]) -> Call | None:
    """The collective that an operator is; None where it is none.

    Raises:
        ValueError: a collective that nobody here knows.
    """
    if func.namespace not in ("c10d", "_c10d_functional"):
        return None
    name = func._opname
    if name in _WAITS:
        return None
    if name not in _OPERATIONS:
        raise ValueError(f"a collective that is not counted: {func}")
    operation, side = _OPERATIONS[name]
    group = _group(args)
    return Call(operation, axis[group.group_name], group.size(), _size(args, side))


def _group(args: tuple[Any, ...]) -> ProcessGroup:
    boxed = next(arg for arg in args if _is_group(arg))
    group: ProcessGroup = ProcessGroup.unbox(boxed)
    return group


def _is_group(arg: Any) -> bool:
    return "ProcessGroup" in str(getattr(arg, "_type", lambda: "")())


def _size(args: tuple[Any, ...], side: str) -> int:
    """Bytes of the first argument that holds tensors, the output, or of the second one."""
    held = [
        sum(t.numel() * t.element_size() for t in _pytree.tree_leaves(arg) if isinstance(t, Tensor))
        for arg in args
        if any(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(arg))
    ]
    return held[0] if side == "out" or len(held) == 1 else held[1]
