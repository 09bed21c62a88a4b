"""Sparse blocks of the library under the conformance kit."""

from typing import Any

import torch
from torch import Tensor, nn

from turnout.conformance import ForeignLayer
from turnout.integrations.transformers.blocks import sparse_blocks, width


def subjects(model: nn.Module) -> list[ForeignLayer]:
    """The sparse blocks of a model, to be asked whatever needs no look inside.

        for subject in subjects(model):
            print(check(subject).text())

    A block that returns more than its states is asked about these alone.

    Raises:
        UserError: the model has no sparse block that is known.
    """
    d_model = width(model)
    return [
        ForeignLayer(block.module, d_model, _call(block.module, d_model), name=block.name)
        for block in sparse_blocks(model)
    ]


def _call(block: nn.Module, d_model: int) -> Any:
    weight = next(block.parameters())
    probe = torch.zeros(1, 1, d_model, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        several = isinstance(block(probe), tuple)
    return _first if several else None


def _first(block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = block(x)[0]
    return states
