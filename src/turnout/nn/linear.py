"""A linear map without bias: float32 weights, computed in the dtype of its input."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@final
class Linear(nn.Module):
    """``y = x W^T`` with ``weight`` [outputs, inputs] in float32, cast to the dtype of ``x``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return F.linear(x, self.weight.to(x.dtype))
