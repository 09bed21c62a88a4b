"""Cutting a module's weights into the blocks of ranks, before FSDP."""

from dataclasses import dataclass, field

import torch
from torch import nn

from turnout.nn.adapter import MARK, Adapter
from turnout.parallel.mesh import Meshes
from turnout.parallel.shards import Cut


@dataclass
class Blocks:
    """What has been cut so far, by parameter: filled while a model is laid out."""

    meshes: Meshes
    shape: dict[nn.Parameter, tuple[int, ...]] = field(default_factory=dict)
    cuts: dict[nn.Parameter, tuple[Cut, ...]] = field(default_factory=dict)
    owned: dict[nn.Parameter, bool] = field(default_factory=dict)
    partial: set[nn.Parameter] = field(default_factory=set)

    def cut(self, module: nn.Module, name: str, dim: int, axis: str) -> None:
        """Leave ``module`` this rank's part of a parameter along an axis of the experts' mesh, and
        of the adapter beside it."""
        old = getattr(module, name)
        if old is None:
            return
        adapter = module._modules.get(name + MARK)
        if isinstance(adapter, Adapter):
            self._cut_adapter(adapter, dim, axis)
        mesh = self.meshes.experts
        cut = Cut(axis, dim, mesh.get_local_rank(axis), mesh.get_group(axis))
        start, length = cut.span(old.shape[dim])
        kept = old.detach().narrow(dim, start, length).clone()
        self._put(module, name, old, kept, (*self.cuts.pop(old, ()), cut))

    def _cut_adapter(self, adapter: Adapter, dim: int, axis: str) -> None:
        """What has the dimension is cut with the matrix; of a factor without it each rank has the
        whole, and a part of its gradient."""
        cut = adapter.along(dim)
        for factor in cut:
            self.cut(adapter, factor, dim, axis)
        self.partial.update(adapter.get_parameter(each) for each in {"a", "b"} - {*cut})

    def own(self, module: nn.Module, name: str) -> None:
        """Let the first tensor rank alone have a bias that is added to a sum over the axis."""
        old = getattr(module, name)
        if old is None:
            return
        first = self.meshes.experts.get_local_rank("tensor") == 0
        kept = old.detach() if first else torch.zeros_like(old)
        new = self._put(module, name, old, kept, self.cuts.pop(old, ()))
        new.requires_grad_(first and old.requires_grad)
        self.owned[new] = first

    def sum_gradients(self, module: nn.Module | None) -> None:
        """Note that each tensor rank has a part of the gradients of a module's weights."""
        if module is not None:
            self.partial.update(module.parameters())

    def _put(
        self,
        module: nn.Module,
        name: str,
        old: nn.Parameter,
        kept: torch.Tensor,
        cuts: tuple[Cut, ...],
    ) -> nn.Parameter:
        new = nn.Parameter(kept, requires_grad=old.requires_grad)
        self.shape[new] = self.shape.pop(old, tuple(old.shape))
        self.owned[new] = self.owned.pop(old, True)
        self.cuts[new] = cuts
        setattr(module, name, new)
        return new
