"""Attention that drops some of its probabilities, on a CPU, without keeping them.

PyTorch has no kernel for that there: it composes attention in float32 and keeps [B, H, Q, K]
probabilities, and what was dropped of them, for every layer. Here a few rows or heads are
computed at a time, and the backward pass makes their probabilities again from the log-sum-exp (Dao
et al. 2022, 2205.14135, algorithm 4) and draws again from the seed what was dropped. Where a mask
leaves little, as that of short examples packed into a row does, queries that follow each other
read the span of keys that some of them may.

Axes: B batch, H heads, G heads of keys, Q queries, K keys, d width of a head, e that of a value.
"""

from collections.abc import Iterator
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

PART = 1 << 20  # probabilities at a time, where a head has no more: 4 MiB in float32
BITS = 16  # of the number that decides on a probability
SEEDS = 1 << 62
QUERIES = 64  # that read the same span of keys
SPARSE = 0.75  # of all pairs are in such spans, at most; else it is no gain
LEAST = 1e-38  # a sum of exponentials where a query reads nothing


def takes(query: Tensor, dropout: float) -> bool:
    """Whether ``attention`` computes this: something is dropped, and there is no kernel."""
    known = query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16)
    return dropout > 0 and known


def attention(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B G K d"],
    value: Float[Tensor, "B G K e"],
    mask: Bool[Tensor, "#B #H #Q K"] | Float[Tensor, "#B #H #Q K"],
    dropout: float,
    scale: float,
) -> Float[Tensor, "B H Q e"]:
    """``(softmax(scale * query key^T + mask) * kept / (1 - dropout)) value``.

    ``mask`` is True where a query may read, or a bias with minus infinity elsewhere, which has a
    gradient. A query that may read nothing gets zeros. ``dropout`` is rounded to a multiple of
    2^-16, below 1; the seed is drawn from torch's own generator. float32 or bfloat16; the softmax
    and its gradient are float32.
    """
    heads = query.shape[1] // key.shape[1]
    if heads > 1:
        key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    heads = query.shape[1] if mask.is_floating_point() else mask.shape[1]
    every = mask.expand(query.shape[0], heads, query.shape[2], key.shape[2])
    seed = torch.randint(SEEDS, ())
    dropped = min(round(dropout * (1 << BITS)), (1 << BITS) - 1)
    operator = torch.ops.turnout.dropped_attention
    mixed: Tensor = operator(query, key, value, every, seed, dropped, scale)[0]
    return mixed


@final
class Draws:
    """Which probabilities are kept: the same from the same seed, however many rows at a time.

    Args:
        dropped: of 65,536.
    """

    def __init__(self, seed: Tensor, dropped: int) -> None:
        self._generator = torch.Generator().manual_seed(int(seed))
        self._least = dropped - (1 << BITS - 1)
        self._factor = (1 << BITS) / ((1 << BITS) - dropped)

    def factors(self, *shape: int) -> Float[Tensor, "b h Q K"]:
        """0 for what is dropped, and for the rest the inverse of the share that is kept."""
        b, h, queries, keys = shape
        entries = queries * keys
        words = -(-entries * BITS // 64)  # of a head, so that it is the same among any others
        numbers = torch.empty(b, h, words, dtype=torch.int64)
        numbers.random_(torch.iinfo(torch.int64).min, None, generator=self._generator)
        kept = numbers.view(torch.int16)[..., :entries] >= self._least
        return kept.view(b, h, queries, keys).to(torch.float32).mul_(self._factor)


@torch.library.custom_op(
    "turnout::dropped_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor mask, Tensor seed, int dropped, "
    "float scale) -> (Tensor, Tensor)",
)
def _attention_op(query, key, value, mask, seed, dropped, scale):  # type: ignore[no-untyped-def]
    mixed, log_sum = _results(query, value)
    draws = Draws(seed, dropped)
    for part in _parts(query, key):
        q, k, v, m = query[part], key[part], value[part], _of(mask, part)
        factors = draws.factors(*q.shape[:3], k.shape[2])
        y, sums = mixed[part], log_sum[part]
        for rows, queries, keys in _spans(m):
            logits = _logits(
                q[rows, :, queries], k[rows, :, keys], m[rows, :, queries, keys], scale
            )
            largest = logits.amax(-1, keepdim=True).nan_to_num_(neginf=0.0)
            p = logits.sub_(largest).exp_()
            total = p.sum(-1, keepdim=True).clamp_min_(LEAST)
            p = p.mul_(factors[rows, :, queries, keys]).to(query.dtype)
            y[rows, :, queries] = torch.matmul(p, v[rows, :, keys]).float().div_(total)
            sums[rows, :, queries] = total.log_().add_(largest).squeeze(-1)
    return mixed, log_sum


@_attention_op.register_fake
def _(query, key, value, mask, seed, dropped, scale):  # type: ignore[no-untyped-def]
    return _results(query, value)


@torch.library.custom_op(
    "turnout::dropped_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor mask, Tensor seed, "
    "Tensor mixed, Tensor log_sum, int dropped, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(grad, query, key, value, mask, seed, mixed, log_sum, dropped, scale):  # type: ignore[no-untyped-def]
    found = _empty(query, key, value, mask)
    draws, dtype = Draws(seed, dropped), query.dtype
    for part in _parts(query, key):
        q, k, v, m = query[part], key[part], value[part], _of(mask, part)
        factors = draws.factors(*q.shape[:3], k.shape[2])
        upstream = grad[part]
        delta = (upstream.float() * mixed[part].float()).sum(-1, keepdim=True)
        keys_slope, values_slope = (torch.zeros(t.shape) for t in (k, v))
        for rows, queries, keys in _spans(m):
            here, there = (rows, slice(None), queries), (rows, slice(None), keys)
            pair = (*here, keys)
            logits = _logits(q[here], k[there], m[pair], scale)
            p = logits.sub_(log_sum[part][here].unsqueeze(-1)).exp_()
            slope = torch.matmul(upstream[here], v[there].transpose(-1, -2)).float()
            slope = slope.mul_(factors[pair]).sub_(delta[here]).mul_(p)
            if len(found[3]):
                found[3][part][pair] = slope
            slope, left = slope.to(dtype), p.mul_(factors[pair]).to(dtype)
            found[0][part][here] = torch.matmul(slope, k[there]).mul_(scale)
            keys_slope[there] += torch.matmul(slope.transpose(-1, -2), q[here]).mul_(scale)
            values_slope[there] += torch.matmul(left.transpose(-1, -2), upstream[here])
        found[1][part], found[2][part] = keys_slope, values_slope
    return found


@_backward_op.register_fake
def _(grad, query, key, value, mask, seed, mixed, log_sum, dropped, scale):  # type: ignore[no-untyped-def]
    return _empty(query, key, value, mask)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of the batch, or heads of a row, few enough to stay near the processor."""
    rows, heads, each = *query.shape[:2], query.shape[2] * key.shape[2]
    some = max(1, min(heads, PART // max(1, each)))
    many = max(1, PART // max(1, heads * each)) if some == heads else 1
    for row in range(0, rows, many):
        for head in range(0, heads, some):
            yield slice(row, row + many), slice(head, head + some)


def _of(mask: Tensor, part: tuple[slice, slice]) -> Tensor:
    rows, heads = part
    return mask[rows] if mask.shape[1] == 1 else mask[rows, heads]


def _spans(mask: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, queries and keys: all at once, or the span of keys that the mask, [b, 1 or h, Q, K],
    leaves to some queries of a row, where these are few."""
    read = (mask if mask.dtype == torch.bool else mask.ne(-torch.inf)).any(1)
    keys = read.shape[2]
    some = torch.stack([block.any(1) for block in torch.split(read, QUERIES, 1)], 1)
    first = some.byte().argmax(-1)
    last = (keys - some.flip(-1).byte().argmax(-1)).where(some.any(-1), 1)
    if int((last - first).sum()) * QUERIES > SPARSE * read.numel():
        yield slice(None), slice(None), slice(None)
        return
    for row, (starts, ends) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for block, (start, end) in enumerate(zip(starts, ends, strict=True)):
            beginning = block * QUERIES
            queried = slice(beginning, beginning + QUERIES)
            yield slice(row, row + 1), queried, slice(start, end)


def _logits(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Float[Tensor, "b H Q K"]:
    logits = torch.matmul(query.float(), key.float().transpose(-1, -2)).mul_(scale)
    if mask.dtype == torch.bool:  # of one head for all: a bias is made of it at once
        mask = logits.new_zeros(mask.shape).masked_fill_(mask.logical_not(), -torch.inf)
    return logits.add_(mask)


def _results(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    rows, heads, queries, _ = query.shape
    # Heads of a token side by side, as they are joined afterwards.
    mixed = query.new_empty(rows, queries, heads, value.shape[3]).transpose(1, 2)
    return mixed, query.new_empty(query.shape[:3], dtype=torch.float32)


def _empty(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Room for the gradients; none for a mask that has no gradient, else zeros, which those are of
    keys that no query of a span reads."""
    rows = 0 if mask.dtype == torch.bool else mask.shape[0]
    own = query.new_zeros(rows, *mask.shape[1:], dtype=torch.float32)
    return (*(torch.empty(t.shape, dtype=t.dtype) for t in (query, key, value)), own)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.dropped, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, mask, seed, mixed, log_sum = ctx.saved_tensors
    operator = torch.ops.turnout.dropped_attention_backward
    tensors = (grad, query, key, value, mask, seed, mixed, log_sum)
    *found, bias = operator(*tensors, ctx.dropped, ctx.scale)
    wanted = bias.to(mask.dtype) if ctx.needs_input_grad[3] else None
    return (*found, wanted, None, None, None)


_attention_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.dropped_attention])
def _flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * _pairs(query, key) * int(query[3] + value[3])


@register_flop_formula([torch.ops.turnout.dropped_attention_backward])
def _backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * _pairs(query, key) * int(3 * query[3] + 2 * value[3])


def _pairs(query: Any, key: Any) -> int:
    return int(query[0] * query[1] * query[2] * key[2])
