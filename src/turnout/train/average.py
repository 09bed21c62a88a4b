"""An exponential moving average of the weights, which evaluation and generation may use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from turnout.train.ranks import Weights

Average = dict[str, Tensor]


def start_average(weights: Weights) -> Average:
    """The weights as they are, copied; float32."""
    return {name: param.detach().clone() for name, param in weights.items()}


def update_average(average: Average, weights: Weights, decay: float) -> None:
    """``average = decay * average + (1 - decay) * weights``, in place."""
    now = [param.detach() for param in weights.values()]
    torch._foreach_lerp_(list(average.values()), now, 1 - decay)


@contextmanager
def averaged(weights: Weights, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Within it the weights are those of the average, which holds theirs; without an average
    nothing changes."""
    if average is None:
        yield
        return
    _exchange(weights, average)
    try:
        yield
    finally:
        _exchange(weights, average)


@torch.no_grad()
def _exchange(weights: Weights, average: Mapping[str, Tensor]) -> None:
    for name, param in weights.items():
        own = param.detach().clone()
        param.copy_(average[name])
        average[name].copy_(own)
