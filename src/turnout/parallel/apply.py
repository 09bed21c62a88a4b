"""Lays a single-device model over ranks, from outside: its code knows nothing of them.

Tensor and expert axes leave each module a block of its weights and the functions that bring rows
and sums together; then FSDP shards what is left over the batch ranks, and sums the gradients.
"""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Shard as ShardPlacement

from turnout.config.parallel import ParallelPlan
from turnout.models.base import Model
from turnout.models.blocks import SparseSublayer
from turnout.moe.dispatch.all_to_all import AllToAllDispatcher
from turnout.moe.layer import MoELayer
from turnout.parallel.blocks import Blocks
from turnout.parallel.collectives import exchange_counts
from turnout.parallel.exchange import CountExchange, ExpertExchange
from turnout.parallel.mesh import Meshes
from turnout.parallel.shards import Layout, Shard, sharded
from turnout.parallel.tensor import share_out_widths

_WIRES = {"compute": None, "bfloat16": torch.bfloat16}


def apply(model: Model, meshes: Meshes, counts: CountExchange = exchange_counts) -> Layout:
    """Leave this rank its share of ``model``, in place, and say what that is.

    Args:
        model: whole, with its weights, the same on every rank.
        counts: how ranks learn how many rows come; a simulation puts its own in its place.
    """
    plan, blocks = meshes.plan, Blocks(meshes)
    if plan.expert > 1:
        _share_out_experts(model, blocks, counts)
    if plan.tensor > 1:
        share_out_widths(model, blocks, meshes.experts.get_group("tensor"), plan.sequence)
    named = dict(model.named_parameters())
    if plan.batch_ranks > 1:
        _fully_shard(model, meshes)
    after = dict(model.named_parameters())
    return Layout({name: _shard(old, after[name], blocks) for name, old in named.items()})


def _share_out_experts(model: Model, blocks: Blocks, counts: CountExchange) -> None:
    """Each rank of the expert axis keeps its experts; tokens travel to them and back."""
    mesh, plan = blocks.meshes.experts, blocks.meshes.plan
    exchange = ExpertExchange(mesh.get_group("expert"), _WIRES[plan.wire], counts)
    for sublayer in sparse_sublayers(model):
        for name, _ in list(sublayer.moe.experts.named_parameters(recurse=False)):
            blocks.cut(sublayer.moe.experts, name, 0, "expert")
        sublayer.moe = sublayer.moe.with_dispatcher(AllToAllDispatcher(exchange))


def sparse_sublayers(model: nn.Module) -> list[SparseSublayer]:
    """The blocks' parts that hold feed-forward experts."""
    return [module for module in model.modules() if isinstance(module, SparseSublayer)]


def _fully_shard(model: Model, meshes: Meshes) -> None:
    """FSDP over the batch ranks: a unit a block, and one for what is around them.

    A replica axis of several ranks makes it hybrid, a shard axis of one plain data parallel.
    Experts that ranks share out have fewer copies than dense weights, and a mesh of their own.
    """
    plan, apart = meshes.plan, set[nn.Parameter]()
    dense = meshes.dense["replica", "shard"]
    layers = [sublayer.moe for sublayer in sparse_sublayers(model)] if plan.expert > 1 else []
    for layer in layers:
        if plan.expert_fsdp * plan.expert_replicas > 1:
            _shard_experts(layer, meshes, plan)
        else:
            apart.update(layer.experts.parameters())
    for stack in model.stacks():
        for block in stack.blocks:
            fully_shard(block, mesh=dense, ignored_params=apart & set(block.parameters()))
    fully_shard(model, mesh=dense, reshard_after_forward=False, ignored_params=apart)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss of each rank is divided by the totals of all: gradients are summed. The
            # factor alone would ask for a scaled sum, which gloo does not have.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _shard_experts(layer: MoELayer, meshes: Meshes, plan: ParallelPlan) -> None:
    """By experts where that comes out even, otherwise by the next dimension that does."""

    def placement(param: nn.Parameter) -> ShardPlacement | None:
        even = [d for d, size in enumerate(param.shape) if size % plan.expert_fsdp == 0]
        return ShardPlacement(even[0]) if even else None

    mesh = meshes.experts["replica", "shard"]
    fully_shard(layer.experts, mesh=mesh, shard_placement_fn=placement)


def _shard(old: nn.Parameter, new: nn.Parameter, blocks: Blocks) -> Shard:
    """What became of one parameter."""
    cuts = (*blocks.cuts.get(old, ()), *sharded(new.data))
    axes = {cut.axis for cut in cuts}
    mesh = blocks.meshes.experts if "expert" in axes else blocks.meshes.dense
    others = [axis for axis in mesh.mesh_dim_names or () if axis not in axes]
    return Shard(
        shape=blocks.shape.get(old, tuple(old.shape)),
        cuts=cuts,
        counts=all(mesh.get_local_rank(axis) == 0 for axis in others),
        owned=blocks.owned.get(old, True),
        partial=mesh.get_group("tensor") if old in blocks.partial else None,
    )
