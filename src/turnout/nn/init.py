"""Initial weights: the truncated normal with its true standard deviation."""

import math

import torch
from torch import Tensor


def truncated_std(cut: float) -> float:
    """Standard deviation of a unit normal truncated at plus and minus ``cut``.

    Var = 1 - 2 c phi(c) / (2 Phi(c) - 1); 0.8796 at two standard deviations.
    """
    density = math.exp(-0.5 * cut * cut) / math.sqrt(2 * math.pi)
    inside = math.erf(cut / math.sqrt(2))
    return math.sqrt(1 - 2 * cut * density / inside)


@torch.no_grad()
def truncated_normal_(
    tensor: Tensor, std: float, generator: torch.Generator | None = None, *, cut: float = 2.0
) -> Tensor:
    """Fills ``tensor`` with N(0, .) resampled beyond ``cut`` deviations; the result has ``std``.

    torch's ``trunc_normal_`` takes the deviation before the cut, so that what it realises is
    12% too small at two deviations; the Switch paper's JAX code corrects for that, and so do we.
    """
    before = std / truncated_std(cut)
    torch.nn.init.trunc_normal_(
        tensor, 0.0, before, -cut * before, cut * before, generator=generator
    )
    return tensor


def matrix_normal_(
    weight: Tensor,
    generator: torch.Generator | None = None,
    *,
    scale: float = 1.0,
    std: float | None = None,
) -> Tensor:
    """``sqrt(scale / fan_in)`` cut at two deviations (Switch section 2.4), or ``std`` at three.

    The fan-in is the second dimension: of [out, in], and of stacked experts' [expert, in, out].
    """
    if std is not None:
        return truncated_normal_(weight, std, generator, cut=3.0)
    return truncated_normal_(weight, (scale / weight.shape[1]) ** 0.5, generator)
