"""A linear map: float32 weights, computed in the dtype of its input.

Axes: N rows, I inputs, O outputs.
"""

from typing import Any, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from turnout.nn import onednn


@final
class Linear(nn.Module):
    """``y = x W^T + b`` with ``weight`` [outputs, inputs] and, where asked for, ``bias`` [outputs]
    in float32, cast to the dtype of ``x``.

    Attributes:
        packed: whether weight and bias are those of ``models.prepared``.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.packed = False
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def init_bias(self) -> None:
        """A bias of zero, where there is one."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return (onednn.packed_linear if self.packed else linear)(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*N I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "*N O"]:
    """``x W^T + b`` by the faster library; weight and bias are cast to the dtype of ``x``."""
    added = None if bias is None else bias.to(x.dtype)
    matrix = weight.to(x.dtype)
    if not onednn.takes(x.dtype, x.device.type, weight.numel(), rows=x.numel() // x.shape[-1]):
        return F.linear(x, matrix, added)
    product = cast(Tensor, torch.ops.turnout.linear(x, matrix))
    return product if added is None else product + added


@torch.library.custom_op(
    "turnout::linear", mutates_args=(), schema="(Tensor x, Tensor weight) -> Tensor"
)
def _linear_op(x, weight):  # type: ignore[no-untyped-def]
    return onednn.linear(x, weight)


@_linear_op.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.turnout.linear(grad, weight.t())
    if ctx.needs_input_grad[1]:
        rows, upstream = x.flatten(0, -2), grad.flatten(0, -2)
        grad_weight = torch.ops.turnout.linear(upstream.t(), rows.t())
    return grad_x, grad_weight


_linear_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.linear])
def _flops(x: Any, weight: Any, **_: Any) -> int:
    rows = 1
    for size in x[:-1]:
        rows *= size
    return int(2 * rows * weight[0] * weight[1])
