"""Which block of each whole weight a rank holds, and what follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Cut:
    """A dimension that the ranks of a group share out, in equal parts but for the last ones.

    Attributes:
        axis: of the mesh.
        dim: of the tensor.
        index: which part this rank has.
        group: the ranks, in the order of their parts.
    """

    axis: str
    dim: int
    index: int
    group: ProcessGroup

    @property
    def parts(self) -> int:
        return self.group.size()

    def span(self, size: int) -> tuple[int, int]:
        """Start and length of this rank's part of ``size`` entries."""
        each = -(-size // self.parts)
        start = min(self.index * each, size)
        return start, min(each, size - start)


@dataclass(frozen=True)
class Shard:
    """Where a rank's block of one weight lies in the whole.

    Attributes:
        shape: of the whole weight.
        cuts: outer ones first; a later one cuts what an earlier one left.
        counts: whether this rank is the first of those that hold the block, and so the one that
            counts it in the norm of the gradient.
        owned: False where this rank holds zeros in the place of a weight that another one adds.
        partial: the ranks over which gradients are still to be summed, or None.
    """

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()
    counts: bool = True
    owned: bool = True
    partial: ProcessGroup | None = None

    @property
    def block(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offset and shape of this rank's block in the whole."""
        offset, shape = [0] * len(self.shape), list(self.shape)
        for cut in self.cuts:
            start, shape[cut.dim] = cut.span(shape[cut.dim])
            offset[cut.dim] += start
        return tuple(offset), tuple(shape)

    def without(self, dim: int) -> "Shard":
        """That of a tensor which lacks a dimension of the weight, such as its means."""
        dim %= len(self.shape)
        cuts = [replace(c, dim=c.dim - (c.dim > dim)) for c in self.cuts if c.dim != dim]
        shape = self.shape[:dim] + self.shape[dim + 1 :]
        return replace(self, shape=shape, cuts=tuple(cuts))

    def mean(self, values: Tensor, dim: int) -> Tensor:
        """Mean of the whole weight's values along one dimension, which stays with size 1."""
        total = values.sum(dim, keepdim=True)
        for cut in self.cuts:
            if cut.dim == dim % len(self.shape):
                dist.all_reduce(total, group=cut.group)
        return total / self.shape[dim]


@dataclass(frozen=True)
class Layout:
    """The shard of every weight, by name, in the order of the model's parameters."""

    shards: Mapping[str, Shard]


@singledispatch
def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; it shares its memory."""
    return tensor


@local.register
def _(tensor: DTensor) -> Tensor:
    return tensor.to_local()


@singledispatch
def sharded(tensor: Tensor) -> tuple[Cut, ...]:
    """How FSDP cut a parameter: not at all."""
    return ()


@sharded.register
def _(tensor: DTensor) -> tuple[Cut, ...]:
    mesh = tensor.device_mesh
    return tuple(
        Cut("shard", placement.dim, mesh.get_local_rank(axis), mesh.get_group(axis))  # type: ignore[attr-defined]
        for axis, placement in enumerate(tensor.placements)
        if placement.is_shard() and mesh.size(axis) > 1
    )


def squared_norm(tensors: Sequence[tuple[Tensor, Shard]]) -> Tensor:
    """This rank's part of the squared norm of whole tensors: each block counts on one rank.

    Returns:
        A float64 scalar; over all ranks they add up.
    """
    parts = [t.double().square().sum() for t, shard in tensors if shard.counts and shard.owned]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
