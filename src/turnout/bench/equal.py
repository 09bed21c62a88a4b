"""The check before every measurement: ways that are compared must compute the same."""

import torch
from torch import Tensor

from turnout.config.errors import UserError

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Of the largest entry: several times what the order of sums moves in a layer or two."""


class UnequalError(UserError):
    """Two ways computed different things: their times say nothing."""


def difference(name: str, found: Tensor, expected: Tensor, bound: float) -> float:
    """The largest difference of two tensors of one shape, over the largest entry of ``expected``.

    Raises:
        UnequalError: it is above ``bound``, or not a number.
    """
    if found.shape != expected.shape:
        raise UnequalError(f"{name}: has shape {list(found.shape)}, not {list(expected.shape)}")
    if found.numel() == 0:
        return 0.0
    largest = expected.double().abs().max().clamp(min=1e-30)
    apart = float((found.double() - expected.double()).abs().max() / largest)
    if not apart <= bound:
        raise UnequalError(
            f"{name}: differs from turnout by {apart:.2g} of the largest entry, at most "
            f"{bound:.2g} is allowed; nothing was timed"
        )
    return apart
