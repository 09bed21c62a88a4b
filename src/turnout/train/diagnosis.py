"""Where a number that is not finite comes from: the step again, module by module."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from turnout.data.batch import Batch


class _Found(Exception):
    """Ends the forward pass at the first bad output."""


def first_bad(model: nn.Module, batches: Sequence[Batch], before: Callable[[int], None]) -> str:
    """The first weight, or else the first module's output, that is not finite; empty if none is.

    Nothing has been updated since the step that went wrong, and its noise depends on nothing but
    its batch, so the forward passes go as they went.

    Args:
        before: called with the index of a micro-batch before its forward, to seed dropout.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            return f"the weight {name}"
    handles = [
        module.register_forward_hook(partial(_refuse, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for index, batch in enumerate(batches):
                before(index)
                model(batch)
    except _Found as found:
        return f"the output of {found}"
    finally:
        for handle in handles:
            handle.remove()
    return ""


def _refuse(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    # Inner modules are done before the ones around them, so the first bad one is the innermost.
    leaves = _pytree.tree_leaves(output)
    floats = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
    if not all(bool(torch.isfinite(leaf).all()) for leaf in floats):
        raise _Found(name)
