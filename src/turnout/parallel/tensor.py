"""Shares out heads and hidden widths over the tensor axis (Switch Transformers, 2101.03961, 5.2).

A network's input is the same on all ranks of the axis, each computes with its block of the weights,
and their outputs add up. In sequence parallel the tokens between networks are shared out as well:
norms, dropout and residuals see a rank's own, and the sum at the end of a network becomes a sum and
a share. What a router decides it decides of all tokens on every rank, and so everywhere the same.
"""

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from turnout.config.attention import AttentionConfig
from turnout.models.attention import CrossAttentionSublayer, DenseSelfAttention
from turnout.models.base import Model
from turnout.models.blocks import DenseSublayer, SparseSublayer
from turnout.models.stack import Stack
from turnout.moe.dispatch import Dispatched, Dispatcher, Granted
from turnout.nn.attention import Attention
from turnout.nn.feed_forward import FeedForward
from turnout.nn.latent_attention import LatentAttention
from turnout.nn.positions import RelativePositionBias
from turnout.parallel import collectives
from turnout.parallel.blocks import Blocks

TicketT = TypeVar("TicketT")
M = TypeVar("M", bound=nn.Module)


def share_out_widths(model: Model, blocks: Blocks, group: ProcessGroup, sequence: bool) -> None:
    """Leave every network of ``model`` this rank's heads or hidden width, in place."""
    ends = _Ends(blocks, group, sequence)
    for attention in _all(model, DenseSelfAttention):
        ends.attention(attention)
        _cut_bias(attention.position_bias, blocks)
    for across in _all(model, CrossAttentionSublayer):
        ends.attention(across)
    for dense in _all(model, DenseSublayer):
        cut_network(dense.network, blocks)
        ends.around(dense.norm, dense.network)
    for sparse in _all(model, SparseSublayer):
        _share_out_sparse(sparse, blocks, group)
        if sequence:
            ends.whole(sparse.norm, sparse.moe)
    stacks = model.stacks()
    for stack in stacks:
        _cut_bias(stack.position_bias, blocks)
        if sequence:
            _share_out_tokens(stack, group)
    for encoder in stacks[:-1]:
        # All layers of the decoder read its states, each rank with its heads.
        encoder.register_forward_hook(partial(_first_copied, group))


def cut_network(network: nn.Module, blocks: Blocks) -> None:
    """A feed-forward network, or stacked experts, with this rank's part of the hidden width."""
    stacked = network.get_parameter("w_in").dim() - 2
    dims = {"w_in": 1, "w_gate": 1, "w_out": 0} if stacked else {"w_in": 0, "w_gate": 0, "w_out": 1}
    for name, dim in dims.items():
        blocks.cut(network, name, stacked + dim, "tensor")
    for name in ("b_in", "b_gate", "hidden_bias"):
        blocks.cut(network, name, stacked, "tensor")
    blocks.own(network, "b_out")


@final
class TensorDispatcher(Dispatcher[TicketT]):
    """Another dispatcher between ranks that each compute a part of every expert's hidden width.

    Combining is linear, so that outputs are added once a token and not once a row; then the
    combine weights have a part of their gradient on each rank.
    """

    def __init__(self, inner: Dispatcher[TicketT], group: ProcessGroup) -> None:
        self.inner = inner
        self.group = group
        self.needs_slots = inner.needs_slots

    def dispatch(self, x: Float[Tensor, "T D"], granted: Granted) -> Dispatched[TicketT]:
        assignment = granted.assignment
        weight = collectives.copied(assignment.weight, self.group)
        granted = replace(granted, assignment=replace(assignment, weight=weight))
        return self.inner.dispatch(collectives.copied(x, self.group), granted)

    def combine(self, rows: Float[Tensor, "M D"], ticket: TicketT) -> Float[Tensor, "T D"]:
        return collectives.summed(self.inner.combine(rows, ticket), self.group)


class _Ends:
    """What happens where a network's ranks part, and where they meet again."""

    def __init__(self, blocks: Blocks, group: ProcessGroup, sequence: bool) -> None:
        self.blocks = blocks
        self.group = group
        self.sequence = sequence

    def attention(self, sublayer: DenseSelfAttention | CrossAttentionSublayer) -> None:
        """Heads of the attention of a sub-layer."""
        module = sublayer.get_submodule("attention")
        before = set(module.parameters())
        for heads in _all(module, Attention):
            _cut_attention(heads, self.blocks)
        for latent in _all(module, LatentAttention):
            _cut_latent(latent, self.blocks)
        # What is not cut, as norms of queries, every rank uses for its heads alone.
        self.blocks.partial.update(before & set(module.parameters()))
        self.around(sublayer.norm, module)

    def around(self, norm: nn.Module, network: nn.Module) -> None:
        """A network behind its norm, each rank with a part of it."""
        group = self.group
        if self.sequence:
            self.blocks.sum_gradients(norm)
            norm.register_forward_hook(partial(_output, collectives.all_tokens_in_parts, group))
            network.register_forward_hook(partial(_output, collectives.summed_tokens, group))
        else:
            norm.register_forward_hook(partial(_output, collectives.copied, group))
            network.register_forward_hook(partial(_output, collectives.summed, group))

    def whole(self, norm: nn.Module, layer: nn.Module) -> None:
        """A layer behind its norm that every rank computes of all tokens."""
        self.blocks.sum_gradients(norm)
        norm.register_forward_hook(partial(_output, collectives.all_tokens, self.group))
        layer.register_forward_hook(partial(_first_shared, self.group))


def _share_out_sparse(sublayer: SparseSublayer, blocks: Blocks, group: ProcessGroup) -> None:
    layer = sublayer.moe
    cut_network(layer.experts, blocks)
    sublayer.moe = layer.with_dispatcher(TensorDispatcher(layer.dispatcher, group))
    for network in [] if layer.shared is None else _all(layer.shared, FeedForward):
        _share_out_inner(network, blocks, group)


def _share_out_inner(network: nn.Module, blocks: Blocks, group: ProcessGroup) -> None:
    """A network whose input and output every rank has whole."""
    cut_network(network, blocks)
    network.register_forward_pre_hook(partial(_input, collectives.copied, group))
    network.register_forward_hook(partial(_output, collectives.summed, group))


def _share_out_tokens(stack: Stack, group: ProcessGroup) -> None:
    """From the first block to the last norm each rank has its share of the tokens."""
    stack.blocks[0].register_forward_pre_hook(partial(_input, collectives.own_tokens, group))
    stack.norm.register_forward_pre_hook(partial(_input, collectives.all_tokens, group))


def _cut_attention(attention: Attention, blocks: Blocks) -> None:
    ranks = blocks.meshes.plan.tensor
    for linear in (attention.query, attention.key, attention.value):
        blocks.cut(linear, "weight", 0, "tensor")
        blocks.cut(linear, "bias", 0, "tensor")
    blocks.cut(attention.out, "weight", 1, "tensor")
    blocks.own(attention.out, "bias")
    blocks.cut(attention, "sinks", 0, "tensor")
    config: AttentionConfig = attention.config
    attention.config = replace(
        config, num_heads=config.num_heads // ranks, num_kv_heads=config.kv_heads // ranks
    )


def _cut_latent(attention: LatentAttention, blocks: Blocks) -> None:
    for linear in (attention.query, attention.key_value):
        blocks.cut(linear, "weight", 0, "tensor")
    blocks.cut(attention.out, "weight", 1, "tensor")
    heads = attention.config.num_heads // blocks.meshes.plan.tensor
    attention.config = replace(attention.config, num_heads=heads)


def _cut_bias(bias: RelativePositionBias | None, blocks: Blocks) -> None:
    if bias is not None:
        blocks.cut(bias, "weight", 1, "tensor")


def _all(model: nn.Module, kind: type[M]) -> list[M]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _output(function: Any, group: ProcessGroup, module: nn.Module, args: Any, out: Tensor) -> Any:
    return function(out, group)


def _input(function: Any, group: ProcessGroup, module: nn.Module, args: Any) -> Any:
    return (function(args[0], group), *args[1:])


def _first_copied(group: ProcessGroup, module: nn.Module, args: Any, out: Any) -> Any:
    return (collectives.copied(out[0], group), *out[1:])


def _first_shared(group: ProcessGroup, module: nn.Module, args: Any, out: Any) -> Any:
    return (collectives.own_tokens(out[0], group), *out[1:])
