"""Attention whose additive bias is learned, on a CPU, without keeping its probabilities.

PyTorch's blockwise kernel takes a bias there, but gives it no gradient: asked for one, attention is
computed step by step in float32 and keeps [B, H, Q, K] probabilities for every layer. Here the
kernel computes forward, and the backward pass makes the probabilities again from its log-sum-exp, a
few rows or heads at a time (Dao et al. 2022, 2205.14135, algorithm 4, with dS as the gradient of
the bias). The bias, the same for all rows, meets what each row may read in these parts alone, and
its gradient is summed over the rows as they go by: nothing as large as the logits is ever whole.

Axes: B batch, H heads, G heads of keys, Q queries, K keys, d width of a head, e that of a value.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from turnout.nn.biased import Biased

PART = 1 << 21  # probabilities at a time: 8 MiB in float32


def wanted(mask: Biased, dtype: torch.dtype, dropout: float) -> bool:
    """Whether there is a gradient to give that the kernel has not, of what this module knows."""
    known = mask.bias.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    return known and dropout == 0 and mask.bias.requires_grad and torch.is_grad_enabled()


def takes(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B G K d"],
    value: Float[Tensor, "B G K e"],
    mask: Biased,
    dropout: float,
) -> bool:
    """Whether ``attention`` computes this."""
    plain = key.shape[:2] == query.shape[:2] and value.shape == key.shape
    return plain and wanted(mask, query.dtype, dropout)


def attention(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B H K d"],
    value: Float[Tensor, "B H K d"],
    mask: Biased,
    scale: float,
) -> Float[Tensor, "B H Q d"]:
    """``softmax(scale * query key^T + bias) value``, with gradients to all four.

    Some key has to be left to each query. float32 or bfloat16, the bias of any float dtype; the
    softmax is float32, and so is its gradient once the product with the values is made, and the
    sum of that of the bias.
    """
    operator = torch.ops.turnout.biased_attention
    mixed: Tensor = operator(query, key, value, mask.bias, mask.allowed, scale)[0]
    return mixed


@torch.library.custom_op(
    "turnout::biased_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor bias, Tensor allowed, float scale) "
    "-> (Tensor, Tensor)",
)
def _attention_op(query, key, value, bias, allowed, scale):  # type: ignore[no-untyped-def]
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed, log_sum = _results(query)
    for part in _parts(query, key):
        mask = _added(bias, allowed, part, query.dtype)
        tensors = (each[part] for each in (query, key, value))
        mixed[part], log_sum[part] = kernel(*tensors, 0.0, False, attn_mask=mask, scale=scale)
    return mixed, log_sum


@_attention_op.register_fake
def _(query, key, value, bias, allowed, scale):  # type: ignore[no-untyped-def]
    return _results(query)


@torch.library.custom_op(
    "turnout::biased_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor bias, Tensor allowed, "
    "Tensor mixed, Tensor log_sum, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(grad, query, key, value, bias, allowed, mixed, log_sum, scale):  # type: ignore[no-untyped-def]
    *found, total = _empty(query, key, value, bias)
    for part in _parts(query, key):
        every = (grad, query, key, value)
        upstream, q, k, v = (each[part].flatten(0, 1).contiguous() for each in every)
        y, sums = (each[part].flatten(0, 1) for each in (mixed, log_sum.unsqueeze(3)))
        logits = torch.bmm(q.float() * scale, k.float().transpose(1, 2))
        shape = (*query[part].shape[:3], key.shape[2])
        logits.view(shape).add_(_added(bias, allowed, part, torch.float32))
        p = logits.sub_(sums).exp_()
        delta = (upstream.float() * y.float()).sum(-1, keepdim=True)
        slope = torch.bmm(upstream, v.transpose(1, 2)).float().sub_(delta).mul_(p)
        rows = slope.view(shape)
        total[:, part[1]] += rows if len(rows) == 1 else rows.sum(0)
        slope, p = slope.to(query.dtype), p.to(query.dtype)
        slopes = (
            torch.bmm(slope, k).mul_(scale),
            torch.bmm(slope.transpose(1, 2), q).mul_(scale),
            torch.bmm(p.transpose(1, 2), upstream),
        )
        for all_parts, own in zip(found, slopes, strict=True):
            all_parts[part] = own.view(all_parts[part].shape)
    return *found, total.to(bias.dtype)


@_backward_op.register_fake
def _(grad, query, key, value, bias, allowed, mixed, log_sum, scale):  # type: ignore[no-untyped-def]
    *found, total = _empty(query, key, value, bias)
    return *found, total.to(bias.dtype)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of the batch, or heads of a row, few enough to stay near the processor; all rows of
    some heads before the next heads, whose bias and its gradient then stay there too."""
    rows, heads, each = *query.shape[:2], query.shape[2] * key.shape[2]
    some = max(1, min(heads, PART // max(1, each)))
    many = max(1, PART // max(1, some * each))
    for head in range(0, heads, some):
        for row in range(0, rows, many):
            yield slice(row, row + many), slice(head, head + some)


def _added(
    bias: Tensor, allowed: Tensor, part: tuple[slice, slice], dtype: torch.dtype
) -> Float[Tensor, "#b h Q K"]:
    """What is added to the logits of a part: where all may be read, one bias for all its rows."""
    rows, heads = part
    own, read = bias[:, heads].to(dtype), allowed[rows]
    return own if bool(read.all()) else torch.where(read, own, -torch.inf)


def _results(query: Tensor) -> tuple[Tensor, Tensor]:
    # Heads of a token side by side, as they are joined afterwards: then joining is no copy.
    return _side_by_side(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def _side_by_side(like: Tensor) -> Tensor:
    rows, heads, length, width = like.shape
    return like.new_empty(rows, length, heads, width).transpose(1, 2)


def _empty(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Room for the gradients, as what they are of was split into heads, and a float32 sum."""
    total = bias.new_zeros(bias.shape, dtype=torch.float32)
    return (*(_side_by_side(each) for each in (query, key, value)), total)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *found, bias = torch.ops.turnout.biased_attention_backward(grad, *ctx.saved_tensors, ctx.scale)
    return (*found, bias, None, None)


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
