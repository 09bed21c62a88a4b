"""A model made ready to compute many passes over the same weights."""

import copy
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from turnout.models.adapters import carried, merged
from turnout.models.base import Model
from turnout.moe.experts import Experts, LinearExperts
from turnout.moe.packed import PackedExperts
from turnout.moe.routers import Router
from turnout.nn.embedding import Embedding
from turnout.nn.feed_forward import FeedForward
from turnout.nn.linear import Linear
from turnout.nn.packed import packed, packs

Memo = dict[int, object]  # what stands for an object in the copy, by the id of the object


@dataclass(frozen=True)
class Aim:
    """What is to be done: the dtype to compute in, and whether matrices are packed."""

    dtype: torch.dtype
    pack: bool

    def packs(self, weight: Tensor) -> bool:
        return self.pack and packs(weight, self.dtype)


def prepared(model: Model, *, pack: bool = True) -> Model:
    """The model with its weights laid out once for the passes that are to follow.

    Weights that layers cast at every call are cast to compute dtype once, which changes no bit; and
    with ``pack``, on CPUs with AVX-512, large matrices are packed: passes over few tokens
    take half the time or less, and roundings differ. Packing takes about as long as 50 such passes.
    Norms, position biases and routers, which are float32 inside, share the weights of ``model``.

    Adapters are merged first, in a copy of the model.

    The result is to be read from alone, and for logits: it has no gradients, and does not follow
    when ``model`` is trained on. Where nothing is left to do it is ``model`` itself.

    Memory: that of the weights once more, in compute dtype; nothing in float32 unless packed.
    """
    aim = Aim(model.dtype, pack)
    if any(carried(model)) and (pack or model.dtype != torch.float32):
        model = merged(model)
    ready = _ready(model, aim)
    weight = model.embedding.weight
    shared_head = model.head is None and model.packed_embedding is None and aim.packs(weight)
    if not ready and not shared_head:
        return model
    made = copy.deepcopy(model, _shared(model) | ready)
    if shared_head:
        made.packed_embedding = packed(weight.detach().to(model.dtype))
    return made


def _shared(module: nn.Module) -> Memo:
    """Tensors that a copy is to have in common with ``module``."""
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}


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
    if module.packed:
        return found
    for weight in module.parameters():
        found |= _cast(weight, aim)
    matrices = [weight for weight in module.parameters() if weight.dim() == 2]
    if not all(map(aim.packs, matrices)):
        return found
    for matrix in matrices:
        own = packed(matrix.detach().to(aim.dtype))
        found[id(matrix)] = nn.Parameter(own, requires_grad=False)
    made = copy.deepcopy(module, _shared(module) | found)
    made.packed = True
    return {id(module): made}


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
