"""A model made ready to compute many passes over the same weights.

Axes: N rows sorted by expert, E experts, D width, O output width.
"""

import copy
from dataclasses import dataclass
from functools import singledispatch
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.models.base import Model
from turnout.moe.experts import Experts, ExpertStack, LinearExperts
from turnout.moe.routers import Router
from turnout.nn import onednn
from turnout.nn.embedding import Embedding
from turnout.nn.feed_forward import FeedForward
from turnout.nn.linear import Linear

Memo = dict[int, object]  # what stands for an object in the copy, by the id of the object


@dataclass(frozen=True)
class Aim:
    """What is to be done: the dtype to compute in, and whether matrices are packed."""

    dtype: torch.dtype
    pack: bool

    def packs(self, weight: Tensor) -> bool:
        return self.pack and onednn.packs(weight, self.dtype)


def prepared(model: Model, *, pack: bool = True) -> Model:
    """The model with its weights laid out once for the passes that are to follow.

    Weights that layers cast at every call are cast to compute dtype once, which changes no bit; and
    with ``pack``, on CPUs with AVX-512, large matrices are packed for oneDNN: passes over few
    tokens take half the time, and roundings differ. Packing takes about as long as 50 such passes.
    Norms, position biases and routers, which are float32 inside, share the weights of ``model``.

    The result is to be read from alone, and for logits: it has no gradients, and does not follow
    when ``model`` is trained on. Where nothing is left to do it is ``model`` itself.

    Memory: that of the weights once more, in compute dtype; nothing in float32 unless packed.
    """
    aim = Aim(model.dtype, pack)
    ready = _ready(model, aim)
    weight = model.embedding.weight
    shared_head = model.head is None and model.packed_embedding is None and aim.packs(weight)
    if not ready and not shared_head:
        return model
    shared: Memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared | ready)
    if shared_head:
        made.packed_embedding = onednn.packed(weight.detach().to(model.dtype))
    return made


@singledispatch
def _ready(module: nn.Module, aim: Aim) -> Memo:
    """What stands for the parts of ``module`` that can be made ready."""
    found: Memo = {}
    for child in module.children():
        found |= _ready(child, aim)
    return found


@_ready.register
def _(module: Router, aim: Aim) -> Memo:
    return {}  # float32 inside


@_ready.register
def _(module: Embedding, aim: Aim) -> Memo:
    return _cast(module.weight, aim)


@_ready.register
def _(module: Linear | FeedForward, aim: Aim) -> Memo:
    found: Memo = {}
    for weight in module.parameters():
        if weight.dim() == 2 and aim.packs(weight):
            own = onednn.packed(weight.detach().to(aim.dtype))
            found[id(weight)] = nn.Parameter(own, requires_grad=False)
        else:
            found |= _cast(weight, aim)
    return found


@_ready.register
def _(module: LinearExperts, aim: Aim) -> Memo:
    return _cast(module.weight, aim)


@_ready.register
def _(module: Experts, aim: Aim) -> Memo:
    if all(aim.packs(stack[0]) for stack in module.parameters() if stack.dim() == 3):
        return {id(module): PackedExperts(module, aim.dtype)}
    found: Memo = {}
    for weight in module.parameters():
        found |= _cast(weight, aim)
    return found


def _cast(weight: nn.Parameter, aim: Aim) -> Memo:
    if weight.dtype == aim.dtype:
        return {}
    return {id(weight): nn.Parameter(weight.detach().to(aim.dtype), requires_grad=False)}


@final
class PackedExperts(ExpertStack):
    """``Experts`` as so many networks with packed matrices, to be read from alone."""

    def __init__(self, experts: Experts, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_experts = experts.num_experts
        self.init_scale = experts.init_scale
        self.d_model = experts.w_in.shape[1]
        self.networks = nn.ModuleList(
            _network(experts, expert, dtype) for expert in range(self.num_experts)
        )

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Packed matrices are made from others: they are not drawn."""
        raise RuntimeError("experts of a prepared model have no weights of their own to draw")

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N D"]:
        """As ``Experts.forward``; rows past the last offset give zero."""
        parts, start = [], 0
        for network, end in zip(self.networks, offsets.tolist(), strict=True):
            if end > start:
                parts.append(network(rows[start:end]))
            start = end
        if start < rows.shape[0] or not parts:
            parts.append(rows.new_zeros(rows.shape[0] - start, self.d_model))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _network(experts: Experts, expert: int, dtype: torch.dtype) -> FeedForward:
    """One expert alone: its matrices [F, D] and [D, F], packed, and its vectors, cast."""
    with torch.device("meta"):
        network = FeedForward(experts.w_in.shape[1], experts.config)
    for name, stacked in experts.named_parameters():
        own = stacked.detach()[expert].to(dtype)
        own = onednn.packed(own.t().contiguous()) if own.dim() == 2 else own
        setattr(network, name, nn.Parameter(own, requires_grad=False))
    return network.eval()
