"""Lays a single-device model over ranks, from outside: its code knows nothing of them.

Tensor and expert axes leave each module a block of its weights and the functions that bring rows
and sums together; then FSDP shards what is left over the batch ranks, and sums the gradients.
"""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard as ShardPlacement

from turnout.models.base import Model
from turnout.models.blocks import SparseSublayer
from turnout.moe.dispatch.all_to_all import AllToAllDispatcher
from turnout.moe.routers.base import Router
from turnout.nn.norms import LayerNorm, RMSNorm
from turnout.nn.positions import RelativePositionBias
from turnout.parallel.blocks import Blocks
from turnout.parallel.collectives import exchange_counts
from turnout.parallel.exchange import CountExchange, ExpertExchange
from turnout.parallel.mesh import Meshes
from turnout.parallel.shards import Layout, Shard, sharded
from turnout.parallel.tensor import share_out_widths

_WIRES = {"compute": None, "bfloat16": torch.bfloat16}
_WIDE = (LayerNorm, RMSNorm, Router, RelativePositionBias)


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

    Units of blocks are gathered in the dtype of the computation, to which their layers would cast
    them and keep the casts for the backward pass. What is float32 whatever the dtype is gathered
    with what is around the blocks: a unit has one dtype.
    """
    dense = meshes.dense["replica", "shard"]
    policy = MixedPrecisionPolicy(
        param_dtype=model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    blocks = [block for stack in model.stacks() for block in stack.blocks]
    inner = {param for block in blocks for param in block.parameters()} - _wide(model)
    # First, since later it would not look for weights inside of blocks that are units.
    fully_shard(model, mesh=dense, reshard_after_forward=False, ignored_params=inner)
    apart = _shard_experts(model, meshes, policy) if meshes.plan.expert > 1 else set()
    for block in blocks:
        left = (apart | _wide(block)) & set(block.parameters())
        fully_shard(block, mesh=dense, mp_policy=policy, ignored_params=left)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss of each rank is divided by the totals of all: gradients are summed. The
            # factor alone would ask for a scaled sum, which gloo does not have.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _wide(module: nn.Module) -> set[nn.Parameter]:
    """Weights that are computed with in float32 whatever the dtype."""
    parts = (part for part in module.modules() if isinstance(part, _WIDE))
    return {param for part in parts for param in part.parameters()}


def _shard_experts(model: Model, meshes: Meshes, policy: MixedPrecisionPolicy) -> set[nn.Parameter]:
    """By experts where that comes out even, otherwise by the next dimension that does.

    Returns:
        Those that no other rank has and nobody casts: they stay as they are.
    """
    plan = meshes.plan

    def placement(param: nn.Parameter) -> ShardPlacement | None:
        even = [d for d, size in enumerate(param.shape) if size % plan.expert_fsdp == 0]
        return ShardPlacement(even[0]) if even else None

    stacks = [sublayer.moe.experts for sublayer in sparse_sublayers(model)]
    if plan.expert_fsdp * plan.expert_replicas == 1 and model.dtype == torch.float32:
        return {param for experts in stacks for param in experts.parameters()}
    mesh = meshes.experts["replica", "shard"]
    for experts in stacks:
        fully_shard(experts, mesh=mesh, mp_policy=policy, shard_placement_fn=placement)
    return set()


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
