"""A linear map: float32 weights, computed in the dtype of its input."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.nn import onednn


@final
class Linear(nn.Module):
    """``y = x W^T + b`` with ``weight`` [outputs, inputs] and, where asked for, ``bias`` [outputs]
    in float32, cast to the dtype of ``x``."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def init_bias(self) -> None:
        """A bias of zero, where there is one."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*N I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "*N O"]:
    """``x W^T + b``; weight and bias are cast to the dtype of ``x``, unless the weight is packed
    (``models.prepared``) and has it already."""
    cast = None if bias is None else bias.to(x.dtype)
    if weight.is_mkldnn:
        return onednn.packed_linear(x, weight, cast)
    return F.linear(x, weight.to(x.dtype), cast)
