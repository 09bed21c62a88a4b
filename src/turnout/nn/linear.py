"""A linear map: float32 weights, computed in the dtype of its input.

Axes: N rows, I inputs, O outputs, R rank of an adapter.
"""

from typing import Any, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from turnout.nn import onednn
from turnout.nn.adapter import Adapter
from turnout.nn.packed import packed_linear


@final
class Linear(nn.Module):
    """``y = x W^T + b`` with ``weight`` [outputs, inputs] and, where asked for, ``bias`` [outputs]
    in float32, cast to the dtype of ``x``.

    Attributes:
        packed: whether weight and bias are those of ``models.prepared``.
        weight_lora: what ``models.adapters`` puts beside the weight.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.packed = False
        self.weight_lora: MatrixAdapter | None = None
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def init_bias(self) -> None:
        """A bias of zero, where there is one."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        y = (packed_linear if self.packed else linear)(x, self.weight, self.bias)
        return adapted(y, x, self.weight_lora)


@final
class MatrixAdapter(Adapter):
    """That of a matrix [O, I]."""

    def __init__(
        self, inputs: int, outputs: int, rank: int, *, scale: float, dropout: float
    ) -> None:
        super().__init__((rank, inputs), (outputs, rank), scale=scale, dropout=dropout)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def along(self, dim: int) -> tuple[str, ...]:
        return ("b",) if dim == 0 else ("a",)

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """What is added to the product of ``x`` with the matrix."""
        return linear(linear(self.dropout(x), self.a) * self.scale, self.b)


def adapted(
    y: Float[Tensor, "*N O"], x: Float[Tensor, "*N I"], adapter: MatrixAdapter | None
) -> Float[Tensor, "*N O"]:
    """``y``, what a matrix made of ``x``, with what its adapter adds where it has one."""
    if adapter is None:
        return y
    added: Tensor = adapter(x)
    return y + added


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
