"""What travels between ranks, with its gradient. Every rank of a group calls each equally often.

Axes: N rows, D width, R ranks of a group, L experts of each, B batch, S sequence.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup

from turnout.config.errors import UserError


def exchange_counts(
    sent: Int[Tensor, "R L"], group: ProcessGroup
) -> tuple[tuple[int, ...], tuple[int, ...], Int[Tensor, "R L"]]:
    """How many rows go to each rank and come from each, and the latter by expert.

    The one place where the sizes of what travels become numbers of the host.
    """
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent.contiguous(), group=group)
    there, here = torch.stack((sent.sum(1), received.sum(1))).tolist()
    return tuple(there), tuple(here), received


def all_to_all(
    rows: Float[Tensor, "N D"],
    sent: tuple[int, ...],
    received: tuple[int, ...],
    group: ProcessGroup,
    wire: torch.dtype | None,
) -> Float[Tensor, "M D"]:
    """Rows to the ranks of a group: the first ``sent[0]`` to rank 0, and so on.

    Args:
        wire: the dtype in which rows and their gradients travel; None: their own.
    """
    moved: Tensor = _AllToAll.apply(rows, sent, received, group, wire)  # type: ignore[no-untyped-call]
    return moved


class _AllToAll(torch.autograd.Function):
    """The gradient travels back the way the rows came."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        sent: tuple[int, ...],
        received: tuple[int, ...],
        group: ProcessGroup,
        wire: torch.dtype | None,
    ) -> Tensor:
        ctx.route = (received, sent, group, wire)
        return _moved(rows, sent, received, group, wire)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _moved(grad, *ctx.route), None, None, None, None


def _moved(
    rows: Tensor,
    sent: tuple[int, ...],
    received: tuple[int, ...],
    group: ProcessGroup,
    wire: torch.dtype | None,
) -> Tensor:
    cast = rows.to(wire or rows.dtype).contiguous()
    out = cast.new_empty(sum(received), rows.shape[1])
    dist.all_to_all_single(out, cast, list(received), list(sent), group=group)
    return out.to(rows.dtype)


def copied(x: Tensor, group: ProcessGroup) -> Tensor:
    """``x``, which every rank of the group has; its gradient is the sum of theirs."""
    same: Tensor = _Copied.apply(x, group)  # type: ignore[no-untyped-call]
    return same


def summed(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of the ranks' ``x``, each of whose gradients is that of the sum."""
    total: Tensor = _Summed.apply(x, group)  # type: ignore[no-untyped-call]
    return total


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(grad, ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _all_reduced(x: Tensor, group: ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def own_tokens(x: Float[Tensor, "B S D"], group: ProcessGroup) -> Float[Tensor, "B s D"]:
    """This rank's share of the tokens that all ranks of the group have, a multiple of them."""
    part: Tensor = _PartOfTokens.apply(x, group, False)  # type: ignore[no-untyped-call]
    return part


def all_tokens(x: Float[Tensor, "B s D"], group: ProcessGroup) -> Float[Tensor, "B S D"]:
    """All ranks' tokens, of which every rank then computes the same: the way back of
    ``own_tokens``."""
    whole: Tensor = _AllTokens.apply(x, group, False)  # type: ignore[no-untyped-call]
    return whole


def all_tokens_in_parts(x: Float[Tensor, "B s D"], group: ProcessGroup) -> Float[Tensor, "B S D"]:
    """All ranks' tokens, of which each rank then computes a part: gradients are summed."""
    whole: Tensor = _AllTokens.apply(x, group, True)  # type: ignore[no-untyped-call]
    return whole


def summed_tokens(x: Float[Tensor, "B S D"], group: ProcessGroup) -> Float[Tensor, "B s D"]:
    """This rank's share of the tokens of the sum of the ranks' ``x``."""
    part: Tensor = _PartOfTokens.apply(x, group, True)  # type: ignore[no-untyped-call]
    return part


class _PartOfTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, in_parts: bool) -> Tensor:
        ctx.group = group
        return _scattered(x, group) if in_parts else _share(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(grad, ctx.group), None, None


class _AllTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, in_parts: bool) -> Tensor:
        ctx.group, ctx.in_parts = group, in_parts
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        back = _scattered(grad, ctx.group) if ctx.in_parts else _share(grad, ctx.group)
        return back, None, None


def _share(x: Tensor, group: ProcessGroup) -> Tensor:
    return _parts(x, group)[group.rank()]


def _parts(x: Tensor, group: ProcessGroup) -> list[Tensor]:
    if x.shape[1] % group.size():
        raise UserError(
            f"rows of {x.shape[1]} positions: must be a multiple of the {group.size()} ranks of "
            "the tensor axis, which share out their tokens (parallel.sequence)"
        )
    return [part.contiguous() for part in x.chunk(group.size(), dim=1)]


def _gathered(x: Tensor, group: ProcessGroup) -> Tensor:
    whole = x.contiguous()
    parts = [torch.empty_like(whole) for _ in range(group.size())]
    dist.all_gather(parts, whole, group=group)
    return torch.cat(parts, dim=1)


def _scattered(x: Tensor, group: ProcessGroup) -> Tensor:
    parts = _parts(x, group)
    out = torch.empty_like(parts[0])
    dist.reduce_scatter(out, parts, group=group)
    return out
