"""Normalisation: by root mean square, or by mean and variance with a bias."""

from typing import Any, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@final
class RMSNorm(nn.Module):
    """``y_i = x_i / rms(x) * g_i`` over the last dimension (ST-MoE, 2202.08906, equation 4).

    No mean is taken off and no bias added. The variance and the product with the float32 scale
    are float32 whatever the dtype of ``x``, which the result has again.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(width))

    def init_weights(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        # A compiler decides by itself what it makes again.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return cast(Tensor, _RootMeanSquare.apply(x, self.weight, self.epsilon)[0])  # type: ignore[no-untyped-call]
        return _by_root_mean_square(x, self.weight, self.epsilon)[0]


def _by_root_mean_square(
    x: Float[Tensor, "*N D"], weight: Float[Tensor, " D"], epsilon: float
) -> tuple[Float[Tensor, "*N D"], Float[Tensor, "*N 1"]]:
    """The result, and the inverse roots."""
    wide = x.float()
    root = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * root * weight).to(x.dtype), root


class _RootMeanSquare(torch.autograd.Function):
    """Keeps what it is given and one number a row: autograd alone would keep the float32 row and
    its product with the inverse root as well.

    With ``n = x r`` and ``s = dy g``: ``dg = sum of dy n`` and ``dx = r (s - n mean(s n))``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        y, root = _by_root_mean_square(x, weight, epsilon)
        ctx.save_for_backward(x, weight, root)
        ctx.mark_non_differentiable(root)
        return y, root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, root = ctx.saved_tensors
        normal, upstream = x.float() * root, upstream.float()
        both = upstream * normal
        of_weight = both.reshape(-1, len(weight)).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        share = both.mul_(weight).mean(-1, keepdim=True)
        of_x = (upstream * weight).sub_(normal.mul_(share)).mul_(root)
        return of_x.to(x.dtype), of_weight, None


@final
class LayerNorm(nn.Module):
    """``y_i = (x_i - mean(x)) / std(x) * g_i + b_i`` over the last dimension (1607.06450).

    Mean, variance and the product with the float32 scale are float32 whatever the dtype of ``x``,
    which the result has again.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def init_weights(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        wide = F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.epsilon)
        return wide.to(x.dtype)


Norm = RMSNorm | LayerNorm
