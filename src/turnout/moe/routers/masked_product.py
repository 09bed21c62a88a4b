"""Router logits of hidden states as they are: float32 inside, without a float32 copy of them all.

Composed of plain operators such logits keep a masked float32 copy of the hidden states for the
backward pass, and pass over the whole of it six times. Here what is float32 is a part of the rows
that the cache holds. Axes: T tokens, D width, E experts.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from turnout.moe.parts import parts
from turnout.moe.routers.scores import linear_float32, without_padding
from turnout.nn.linear import MatrixAdapter


def masked_product(
    x: Float[Tensor, "T D"], mask: Bool[Tensor, " T"], weight: Float[Tensor, "E D"]
) -> Float[Tensor, "T E"]:
    """``x W^T`` in float32, also under autocast (selective precision, Switch section 2.4).

    Where ``mask`` is False the logits are zero, whatever ``x`` holds there, and no gradient comes
    back.
    """
    weight = weight.float()
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return cast(Tensor, torch.ops.turnout.masked_product(x, mask, weight))
    # Of a few tokens, as in generation, an operator of our own would cost more than it saves.
    return linear_float32(without_padding(x, mask), weight)


def adapted(
    logits: Float[Tensor, "T E"],
    x: Float[Tensor, "T D"],
    mask: Bool[Tensor, " T"],
    adapter: MatrixAdapter | None,
) -> Float[Tensor, "T E"]:
    """``logits``, the product of ``x`` with a matrix, with what its adapter adds where it has one;
    float32 as they are."""
    if adapter is None:
        return logits
    inner = masked_product(adapter.dropout(x), mask, adapter.a)
    return logits + linear_float32(inner * adapter.scale, adapter.b)


@torch.library.custom_op(
    "turnout::masked_product",
    mutates_args=(),
    schema="(Tensor x, Tensor mask, Tensor weight) -> Tensor",
)
def _product_op(x, mask, weight):  # type: ignore[no-untyped-def]
    out = weight.new_empty(len(x), len(weight))
    with torch.autocast(device_type=x.device.type, enabled=False):
        for span in parts(*x.shape):
            torch.mm(x.narrow(0, *span).float(), weight.t(), out=out.narrow(0, *span))
    return out.masked_fill_(~mask.unsqueeze(1), 0.0)


@_product_op.register_fake
def _(x, mask, weight):  # type: ignore[no-untyped-def]
    return weight.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op(
    "turnout::masked_product_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor mask, Tensor weight, bool trains) -> (Tensor, Tensor)",
)
def _backward_op(grad, x, mask, weight, trains):  # type: ignore[no-untyped-def]
    of_x = torch.empty_like(x)
    of_weight = torch.zeros_like(weight) if trains else weight.new_empty(0)
    padding = ~mask.unsqueeze(1)
    with torch.autocast(device_type=x.device.type, enabled=False):
        for span in parts(*x.shape):
            upstream, hidden = grad.narrow(0, *span), padding.narrow(0, *span)
            upstream = upstream.masked_fill(hidden, 0.0)
            if trains:
                # Zero times what padding holds may be NaN.
                rows = x.narrow(0, *span).float().masked_fill(hidden, 0.0)
                of_weight.addmm_(upstream.t(), rows)
            of_x.narrow(0, *span).copy_(upstream @ weight)
    return of_x, of_weight


@_backward_op.register_fake
def _(grad, x, mask, weight, trains):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight) if trains else weight.new_empty(0)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor | None]:
    trains = ctx.needs_input_grad[2]
    of_x, of_weight = torch.ops.turnout.masked_product_backward(grad, *ctx.saved_tensors, trains)
    return of_x, None, of_weight if trains else None


_product_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.masked_product])
def _flops(x: Any, mask: Any, weight: Any, **_: Any) -> int:
    return int(2 * x[0] * x[1] * weight[0])


@register_flop_formula([torch.ops.turnout.masked_product_backward])
def _backward_flops(grad: Any, x: Any, mask: Any, weight: Any, trains: bool, **_: Any) -> int:
    return int((4 if trains else 2) * x[0] * x[1] * weight[0])
