"""The experts one after another, each from its tokens to the output while its rows are in cache.

Grouped products want all rows sorted, in and out, and every step between stored whole: on a CPU
the time that is not arithmetic goes into writing that memory for the first time. Here a row is
stored once, as the first matrix leaves it; the rest is recomputed from it in the backward pass.

Axes: T tokens, K choices, N = T * K entries, M rows of one expert, D width, F hidden width, U rows
of the first matrix: 2 F where gated, else F.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from turnout.integrations.transformers.layout import Activation, Layout
from turnout.integrations.transformers.order import Order
from turnout.moe.product_backends import kernel_rows
from turnout.nn import onednn


def in_turn(
    layout: Layout, order: Order, x: Float[Tensor, "T D"], weight: Float[Tensor, "T K"]
) -> Float[Tensor, "T D"]:
    """``y[t] = sum over k of weight[t, k] * expert(x[t])``, summed in float32 or wider.

    For layouts whose activation has no parameters and that have no norm.
    """
    form = Form(layout.transposed, layout.activation, layout.dtype, torch.is_grad_enabled())
    y: Tensor = Turns.apply(  # type: ignore[no-untyped-call]
        form, order, x, weight, layout.up, layout.down, layout.up_bias, layout.down_bias
    )
    return y


@dataclass(frozen=True)
class Form:
    """What is not a tensor: see Layout; ``keeps`` says whether a backward pass may come."""

    transposed: bool
    activation: Activation
    dtype: torch.dtype
    keeps: bool


class Turn(NamedTuple):
    """One expert's share: its number, and its entries ``start .. end`` of the order."""

    expert: int
    start: int
    end: int
    entry: Int[Tensor, " M"]
    token: Int[Tensor, " M"]


def turns(order: Order) -> list[Turn]:
    """Of the experts that have entries."""
    ends = [int(end) for end in order.offsets.tolist()]
    spans = zip(range(len(ends)), [0, *ends[:-1]], ends, strict=True)
    return [
        Turn(expert, start, end, order.entry[start:end], order.token[start:end])
        for expert, start, end in spans
        if end > start
    ]


@final
class Turns(torch.autograd.Function):
    """The experts' sum with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        order: Order,
        x: Tensor,
        weight: Tensor,
        up: Tensor,
        down: Tensor,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
    ) -> Tensor:
        wide = torch.promote_types(form.dtype, torch.float32)
        y = torch.zeros(x.shape, dtype=wide, device=x.device)
        flat = weight.flatten().to(wide)
        kept = []
        for turn in turns(order):
            inner = _times(_rows(x, turn, form), up[turn.expert], form, up_bias, turn)
            if form.keeps:
                kept.append(inner[: len(turn.token)])
            out = form.activation(inner).to(form.dtype)
            out = _times(out, down[turn.expert], form, down_bias, turn)[: len(turn.token)]
            share = flat.index_select(0, turn.entry).unsqueeze(1)
            y.index_add_(0, turn.token, out * share)
        ctx.form, ctx.order = form, order
        ctx.save_for_backward(x, weight, up, down, up_bias, down_bias, *kept)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: under recomputation each read runs the forward pass
        given, inner = saved[:6], saved[6:]
        back = Back(ctx.form, *given, grad=grad, needs=ctx.needs_input_grad[2:])
        for turn, kept in zip(turns(ctx.order), inner, strict=True):
            back.take(turn, kept)
        return (None, None, *back.gradients())


@final
class Back:
    """Adds up the gradients, expert by expert."""

    def __init__(
        self,
        form: Form,
        x: Tensor,
        weight: Tensor,
        up: Tensor,
        down: Tensor,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        *,
        grad: Tensor,
        needs: tuple[bool, ...],
    ) -> None:
        self.form, self.grad = form, grad
        self.x, self.weight, self.up, self.down = x, weight, up, down
        self.up_bias, self.down_bias = up_bias, down_bias
        self.wide = torch.promote_types(form.dtype, torch.float32)
        self.flat = weight.flatten().to(self.wide)
        self.needs = dict(
            zip(("x", "weight", "up", "down", "up_bias", "down_bias"), needs, strict=True)
        )
        self.grad_x = torch.zeros(x.shape, dtype=self.wide, device=x.device)
        self.grad_weight = torch.zeros_like(self.flat)
        self.grad_up, self.grad_down = self._like("up", up), self._like("down", down)
        self.grad_up_bias = self._like("up_bias", up_bias)
        self.grad_down_bias = self._like("down_bias", down_bias)
        self.idle = set(range(up.shape[0]))

    def _like(self, name: str, value: Tensor | None) -> Tensor | None:
        return torch.empty_like(value) if value is not None and self.needs[name] else None

    def take(self, turn: Turn, inner: Float[Tensor, "M U"]) -> None:
        """One expert's part in all gradients, from what its first matrix returned."""
        form, count = self.form, len(turn.token)
        self.idle.discard(turn.expert)
        share = self.flat.index_select(0, turn.entry).unsqueeze(1)
        grad_y = _rows(self.grad, turn, form)
        with torch.enable_grad():
            inner = inner.detach().requires_grad_()
            hidden = form.activation(inner)
        # With out = hidden W: the gradient of the share is grad_y . out = (grad_y W^T) . hidden.
        raw = _back_times(grad_y, self.down[turn.expert], form)[:count]
        grad_share = (raw.to(self.wide) * hidden.detach()).sum(1)
        if self.down_bias is not None:
            bias = self.down_bias[turn.expert].to(self.wide)
            grad_share = grad_share + grad_y[:count].to(self.wide) @ bias
        self.grad_weight.index_copy_(0, turn.entry, grad_share)
        self._matrix(self.grad_down, turn, grad_y, _padded(hidden.detach() * share, grad_y, form))
        self._bias(self.grad_down_bias, turn, grad_y[:count] * share)
        (grad_inner,) = torch.autograd.grad(hidden, inner, (raw * share).to(hidden.dtype))
        self._bias(self.grad_up_bias, turn, grad_inner)
        grad_inner = _padded(grad_inner, grad_y, form)
        if self.grad_up is not None:
            self._matrix(self.grad_up, turn, grad_inner, _rows(self.x, turn, form))
        if self.needs["x"]:
            grad_rows = _back_times(grad_inner, self.up[turn.expert], form)[:count]
            self.grad_x.index_add_(0, turn.token, grad_rows.to(self.wide))

    def _matrix(self, into: Tensor | None, turn: Turn, grad: Tensor, rows: Tensor) -> None:
        """Writes the gradient of ``rows @ matrix`` for the matrix."""
        if into is None:
            return
        left, right = (rows, grad) if self.form.transposed else (grad, rows)
        onednn.fastest_into(left.t(), right, into[turn.expert])

    def _bias(self, into: Tensor | None, turn: Turn, grad: Tensor) -> None:
        if into is not None:
            into[turn.expert] = grad.to(self.wide).sum(0)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of x, the weights, and the experts' parameters; zero for experts without a token."""
        parameters = (self.grad_up, self.grad_down, self.grad_up_bias, self.grad_down_bias)
        for each in parameters:
            for expert in self.idle if each is not None else ():
                each[expert].zero_()  # type: ignore[index]
        grad_weight = self.grad_weight.view(self.weight.shape).to(self.weight.dtype)
        return (self.grad_x.to(self.x.dtype), grad_weight, *parameters)


def _rows(source: Tensor, turn: Turn, form: Form) -> Float[Tensor, "M D"]:
    """An expert's rows, zeros behind them where a kernel wants a rounder number."""
    rows = source.index_select(0, turn.token).to(form.dtype)
    size = kernel_rows(len(turn.token), form.dtype, source.device.type)
    return rows if size == rows.shape[0] else _grown(rows, size)


def _padded(rows: Tensor, like: Tensor, form: Form) -> Tensor:
    rows = rows.to(form.dtype)
    return rows if rows.shape[0] == like.shape[0] else _grown(rows, like.shape[0])


def _grown(rows: Tensor, size: int) -> Tensor:
    out = rows.new_zeros(size, rows.shape[1])
    out[: rows.shape[0]] = rows
    return out


def _times(
    rows: Tensor, matrix: Tensor, form: Form, bias: Tensor | None, turn: Turn
) -> Float[Tensor, "M _"]:
    matrix = matrix.to(form.dtype)
    out = onednn.fastest(rows, matrix if form.transposed else matrix.t())
    return out if bias is None else out.add_(bias[turn.expert].to(form.dtype))


def _back_times(grad: Tensor, matrix: Tensor, form: Form) -> Float[Tensor, "M _"]:
    matrix = matrix.to(form.dtype)
    return onednn.fastest(grad, matrix.t() if form.transposed else matrix)
