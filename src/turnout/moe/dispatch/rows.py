"""Rows to their experts and home, each way and each gradient in as few passes as it takes.

Composed of plain operators a gradient of a gather would be a scatter into zeros, and rows would be
widened to float32 as a whole. Here the way back is a gather too, and what is float32 is a part of
the rows that the cache holds. Axes: T tokens, N rows and assignments, D width, K choices.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.moe.parts import parts


def sent(
    x: Float[Tensor, "T D"],
    token: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    per_token: int,
) -> Float[Tensor, "N D"]:
    """``x[token]``, where assignment n of K a token became row ``row[n]``."""
    if for_a_compiler():
        return x.index_select(0, token)
    rows: Tensor = torch.ops.turnout.sent(x, token, row, per_token)
    return rows


@torch.library.custom_op(
    "turnout::sent",
    mutates_args=(),
    schema="(Tensor x, Tensor token, Tensor row, int per_token) -> Tensor",
)
def _sent_op(x, token, row, per_token):  # type: ignore[no-untyped-def]
    return x.index_select(0, token)


@_sent_op.register_fake
def _(x, token, row, per_token):  # type: ignore[no-untyped-def]
    return x.new_empty(token.shape[0], x.shape[1])


def _keep_row(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, _, row, ctx.per_token = inputs
    ctx.save_for_backward(row)


def _back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (row,) = ctx.saved_tensors
    home = grad.index_select(0, row)
    if ctx.per_token > 1:
        home = home.view(-1, ctx.per_token, grad.shape[1]).sum(1)
    return home, None, None, None


_sent_op.register_autograd(_back, setup_context=_keep_row)


def weighted_home(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, " N"],
    row: Int[Tensor, " N"],
    kept: Bool[Tensor, " N"],
    per_token: int,
) -> Float[Tensor, "T D"]:
    """Each token's kept rows times their float32 weights, added in float32 and cast once."""
    if for_a_compiler():
        return _home_part(rows, weight, row, kept, per_token).to(rows.dtype)
    home: Tensor = torch.ops.turnout.weighted_home(rows, weight, row, kept, per_token)
    return home


@torch.library.custom_op(
    "turnout::weighted_home",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor row, Tensor kept, int per_token) -> Tensor",
)
def _home_op(rows, weight, row, kept, per_token):  # type: ignore[no-untyped-def]
    width = rows.shape[1]
    out = rows.new_empty(row.shape[0] // per_token, width)
    for start, size in parts(row.shape[0], width, per_token):
        factor, place, slotted = (each.narrow(0, start, size) for each in (weight, row, kept))
        found = _home_part(rows, factor, place, slotted, per_token)
        out.narrow(0, start // per_token, size // per_token).copy_(found)
    return out


def _home_part(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, " M"],
    row: Int[Tensor, " M"],
    kept: Bool[Tensor, " M"],
    per_token: int,
) -> Float[Tensor, "U D"]:
    """Of the assignments of some tokens, not cast yet."""
    wide = torch.promote_types(rows.dtype, weight.dtype)
    found = rows.index_select(0, row).to(wide).mul_(weight.unsqueeze(1))
    # Not times zero: what experts leave in rows without a slot counts for nothing.
    found.masked_fill_(~kept.unsqueeze(1), 0.0)
    return found.view(-1, per_token, rows.shape[1]).sum(1) if per_token > 1 else found


def for_a_compiler() -> bool:
    """Whether plain operators are better: a compiler makes loops of them, and there is no way
    back."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


@_home_op.register_fake
def _(rows, weight, row, kept, per_token):  # type: ignore[no-untyped-def]
    return rows.new_empty(row.shape[0] // per_token, rows.shape[1])


@torch.library.custom_op(
    "turnout::weighted_home_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor rows, Tensor weight, Tensor row, Tensor kept, int per_token) "
    "-> (Tensor, Tensor)",
)
def _home_backward_op(grad, rows, weight, row, kept, per_token):  # type: ignore[no-untyped-def]
    assignment = torch.empty_like(row).scatter_(0, row, torch.arange(len(row), device=row.device))
    token = assignment // per_token
    factor = torch.where(kept, weight, 0.0).index_select(0, assignment).unsqueeze(1)
    wide = torch.promote_types(rows.dtype, weight.dtype)
    of_row = weight.new_empty(row.shape)
    grad_rows = torch.empty_like(rows)
    for span in parts(rows.shape[0], rows.shape[1]):
        upstream = grad.index_select(0, token.narrow(0, *span)).to(wide)
        dots = torch.linalg.vecdot(upstream, rows.narrow(0, *span).to(wide))
        of_row.narrow(0, *span).copy_(dots)
        grad_rows.narrow(0, *span).copy_(upstream.mul_(factor.narrow(0, *span)))
    grad_weight = of_row.index_select(0, row).masked_fill_(~kept, 0.0)
    return grad_rows, grad_weight


@_home_backward_op.register_fake
def _(grad, rows, weight, row, kept, per_token):  # type: ignore[no-untyped-def]
    return torch.empty_like(rows), torch.empty_like(weight)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    rows, weight, row, kept, ctx.per_token = inputs
    ctx.save_for_backward(rows, weight, row, kept)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.turnout.weighted_home_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.per_token
    )
    return (*grads, None, None, None)


_home_op.register_autograd(_backward, setup_context=_save)
