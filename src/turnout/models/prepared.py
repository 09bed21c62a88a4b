"""A model made ready to compute many passes over the same weights."""

import copy
from functools import singledispatch

from torch import nn

from turnout.models.base import Model
from turnout.moe.experts import ExpertStack
from turnout.moe.routers import Router
from turnout.nn.embedding import Embedding
from turnout.nn.feed_forward import FeedForward
from turnout.nn.linear import Linear


def prepared(model: Model) -> Model:
    """The model with the weights that its layers cast at every call cast once, to compute dtype.

    It computes the same bits in less time: norms, position biases and routers, which are float32
    inside, share the float32 weights of ``model``. It is to be read from alone: it has no
    gradients, and does not follow when ``model`` is trained on. Where nothing is left to cast,
    as in float32, it is ``model`` itself.

    Memory: that of the cast weights, beside those of ``model``.
    """
    cast = {id(weight): weight for weight in _cast_anyway(model) if weight.dtype != model.dtype}
    if not cast:
        return model
    # What stands in the memo is taken for the copy of a tensor: no weight is copied but to be cast.
    memo: dict[int, object] = {
        id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())
    }
    for key, weight in cast.items():
        memo[key] = nn.Parameter(weight.detach().to(model.dtype), requires_grad=False)
    return copy.deepcopy(model, memo)


@singledispatch
def _cast_anyway(module: nn.Module) -> list[nn.Parameter]:
    """The weights below ``module`` that are cast to the dtype of what they are multiplied with."""
    return [weight for child in module.children() for weight in _cast_anyway(child)]


@_cast_anyway.register
def _(module: Embedding | Linear | FeedForward | ExpertStack) -> list[nn.Parameter]:
    return list(module.parameters())


@_cast_anyway.register
def _(module: Router) -> list[nn.Parameter]:
    return []  # float32 inside
