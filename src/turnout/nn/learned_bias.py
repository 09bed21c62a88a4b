"""Attention whose additive bias is learned, on a CPU, without keeping its probabilities.

PyTorch's blockwise kernel takes a bias there, but gives it no gradient: asked for one, attention is
computed step by step in float32 and keeps [B, H, Q, K] probabilities for every layer. Here the
kernel computes forward, and the backward pass makes the probabilities again from its log-sum-exp, a
few rows of the batch at a time (Dao et al. 2022, 2205.14135, algorithm 4, with dS as the gradient
of the bias). Axes: B batch, H heads, Q queries, K keys, d width of a head.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

PART = 1 << 21  # probabilities at a time: 8 MiB in float32


def takes(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B G K d"],
    value: Float[Tensor, "B G K e"],
    bias: Tensor,
    dropout: float,
) -> bool:
    """Whether ``attention`` computes this: it has a gradient to give that the kernel has not.

    In bfloat16 alone: what PyTorch composes is float32 throughout, and as fast as that can be.
    """
    plain = dropout == 0 and key.shape[:2] == query.shape[:2] and value.shape == key.shape
    known = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return plain and known and bias.requires_grad and torch.is_grad_enabled()


def attention(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B H K d"],
    value: Float[Tensor, "B H K d"],
    bias: Float[Tensor, "B H Q K"],
    scale: float,
) -> Float[Tensor, "B H Q d"]:
    """``softmax(scale * query key^T + bias) value``, with gradients to all four.

    ``bias`` is minus infinity where a query may not read; some key has to be left to each. float32
    or bfloat16; the softmax is float32, and so is its gradient once the product with the values is
    made.
    """
    mixed: Tensor = torch.ops.turnout.biased_attention(query, key, value, bias, scale)[0]
    return mixed


@torch.library.custom_op(
    "turnout::biased_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor bias, float scale) -> (Tensor, Tensor)",
)
def _attention_op(query, key, value, bias, scale):  # type: ignore[no-untyped-def]
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed, log_sum = kernel(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
    return mixed.contiguous(), log_sum.contiguous()


@_attention_op.register_fake
def _(query, key, value, bias, scale):  # type: ignore[no-untyped-def]
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op(
    "turnout::biased_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor bias, Tensor mixed, "
    "Tensor log_sum, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(grad, query, key, value, bias, mixed, log_sum, scale):  # type: ignore[no-untyped-def]
    found = _empty(query, key, value, bias)
    at_once = max(1, PART // max(1, bias.shape[1:].numel()))
    for start in range(0, query.shape[0], at_once):
        rows = slice(start, start + at_once)
        every = (grad, query, key, value, bias, mixed)
        parts = (each[rows].flatten(0, 1).contiguous() for each in every)
        upstream, q, k, v, b, y = parts
        logits = torch.bmm(q.float(), k.float().transpose(1, 2)).mul_(scale).add_(b)
        p = logits.sub_(log_sum[rows].flatten(0, 1).unsqueeze(2)).exp_()
        delta = (upstream.float() * y.float()).sum(-1, keepdim=True)
        slope = torch.bmm(upstream, v.transpose(1, 2)).float().sub_(delta).mul_(p)
        dtype, shape = query.dtype, bias[rows].shape
        found[3][rows] = slope.view(shape)
        slope, p = slope.to(dtype), p.to(dtype)
        found[0][rows] = torch.bmm(slope, k).mul_(scale).view(query[rows].shape)
        found[1][rows] = torch.bmm(slope.transpose(1, 2), q).mul_(scale).view(key[rows].shape)
        found[2][rows] = torch.bmm(p.transpose(1, 2), upstream).view(value[rows].shape)
    return found


@_backward_op.register_fake
def _(grad, query, key, value, bias, mixed, log_sum, scale):  # type: ignore[no-untyped-def]
    return _empty(query, key, value, bias)


def _empty(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.turnout.biased_attention_backward(grad, *ctx.saved_tensors, ctx.scale)
    return (*found, None)


_attention_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.biased_attention])
def _flops(query: Any, key: Any, *_: Any, **__: Any) -> int:
    return 4 * _pairs(query, key)


@register_flop_formula([torch.ops.turnout.biased_attention_backward])
def _backward_flops(grad: Any, query: Any, key: Any, *_: Any, **__: Any) -> int:
    return 10 * _pairs(query, key)  # five products


def _pairs(query: Any, key: Any) -> int:
    batch, heads, queries, width = query
    return int(batch * heads * queries * key[2] * width)
