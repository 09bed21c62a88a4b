"""Root mean square normalisation."""

from typing import final

import torch
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
