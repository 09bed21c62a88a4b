"""Normalisation: by root mean square, or by mean and variance with a bias."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
        wide = x.float()
        variance = wide.square().mean(-1, keepdim=True)
        return (wide * torch.rsqrt(variance + self.epsilon) * self.weight).to(x.dtype)


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
