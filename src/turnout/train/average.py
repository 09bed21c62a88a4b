"""An exponential moving average of the weights, which evaluation and generation may use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Average = dict[str, Tensor]


def start_average(model: nn.Module) -> Average:
    """The weights as they are, copied; float32."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def update_average(average: Average, model: nn.Module, decay: float) -> None:
    """``average = decay * average + (1 - decay) * weights``, in place."""
    weights = [param.detach() for param in model.parameters()]
    torch._foreach_lerp_(list(average.values()), weights, 1 - decay)


@contextmanager
def averaged(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Within it, ``model`` computes with the average; without an average nothing changes."""
    if average is None:
        yield
        return
    own = {name: param.data for name, param in model.named_parameters()}
    try:
        for name, param in model.named_parameters():
            param.data = average[name]
        yield
    finally:
        for name, param in model.named_parameters():
            param.data = own[name]
