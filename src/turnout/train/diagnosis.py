"""Where a number that is not finite comes from: the step again, module by module."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from turnout.data.batch import Batch


def first_bad(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    before: Callable[[int], None],
) -> str:
    """The first weight, or else the first module's output, that is not finite; empty if none is.

    Nothing has been updated since the step that went wrong, and its noise depends on nothing but
    its batch, so the forward passes go as they went: to their ends, for other ranks may take part.

    Args:
        weights: what is here of the model's, by name.
        before: called with the index of a micro-batch before its forward, to seed dropout.
    """
    found = [
        f"the weight {name}"
        for name, weight in weights.items()
        if not bool(torch.isfinite(weight).all())
    ]
    handles = [
        module.register_forward_hook(partial(_note, found, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for index, batch in enumerate(batches):
                before(index)
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _note(found: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    # Inner modules are done before the ones around them, so the first bad one is the innermost.
    leaves = _pytree.tree_leaves(output)
    floats = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
    if not found and not all(bool(torch.isfinite(leaf).all()) for leaf in floats):
        found.append(f"the output of {name}")
