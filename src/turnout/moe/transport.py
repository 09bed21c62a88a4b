"""Soft assignments with prescribed sums, by scaling rows and columns in turn, in log space.

Both are custom operators in float64 and without gradient; a group's result depends on its own
tokens alone. Axes: T tokens, G groups, M tokens of the largest group, E experts.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.moe.context import RoutingContext
from turnout.moe.group_table import GroupTable

# The logarithm of nothing, finite so that no difference of two is undefined.
NOTHING = -1e30


def sinkhorn(
    logits: Float[Tensor, "T E"],
    context: RoutingContext,
    *,
    temperature: float,
    sweeps: int,
    tolerance: float,
) -> Float[Tensor, "T E"]:
    """``Q = diag(u) exp(logits / temperature) diag(v)``: in each group of n live tokens, rows sum
    to 1 / n and columns to 1 / E (Sinkhorn and Knopp 1967; Cuturi 2013).

    Rows always do. Scaling of the columns ends when none is off by more than ``tolerance`` of
    1 / E, or after ``sweeps``. Float32; 0 for padding.
    """
    plan: Tensor = torch.ops.turnout.sinkhorn(
        logits.detach(),
        context.group.flatten(),
        context.mask.flatten(),
        context.num_groups,
        temperature,
        sweeps,
        tolerance,
    )
    return plan


@torch.library.custom_op(
    "turnout::sinkhorn",
    mutates_args=(),
    schema="(Tensor logits, Tensor group, Tensor mask, int num_groups, float temperature, "
    "int sweeps, float tolerance) -> Tensor",
)
def _sinkhorn_op(logits, group, mask, num_groups, temperature, sweeps, tolerance):  # type: ignore[no-untyped-def]
    table = GroupTable.of(group, mask, num_groups)
    scaled = table.rows(logits) / temperature
    live = table.live.unsqueeze(2)
    size = table.size.clamp(min=1).double().view(-1, 1, 1)
    bias = scaled.new_zeros(num_groups, 1, logits.shape[1])
    # Settled groups stand still, or a group's result would depend on its neighbours.
    settled = table.size == 0
    for _ in range(sweeps):
        rows = torch.where(live, torch.log_softmax(scaled + bias, 2), NOTHING)
        column = torch.logsumexp(rows, 1, keepdim=True) - torch.log(size / logits.shape[1])
        settled = settled | (torch.expm1(column).abs().amax((1, 2)) <= tolerance)
        if bool(settled.all()):
            break
        bias = torch.where(settled.view(-1, 1, 1), bias, bias - column)
    return table.flat(torch.softmax(scaled + bias, 2) / size).float()


@_sinkhorn_op.register_fake
def _(logits, group, mask, num_groups, temperature, sweeps, tolerance):  # type: ignore[no-untyped-def]
    return torch.empty_like(logits, dtype=torch.float32)


def capped_shares(
    scores: Float[Tensor, "T E"],
    context: RoutingContext,
    *,
    slots: int,
    cap: int,
    strength: float,
    sweeps: int,
) -> Float[Tensor, "T E"]:
    """The A in [0, 1] that maximises ``<scores, A> + strength * H(A)`` in each group, where every
    expert's shares sum to ``slots`` and no token's to more than ``cap``.

    Dykstra's algorithm with Kullback-Leibler projections (Benamou et al. 2015) on the three
    constraints in turn, from ``exp(scores / strength)``, ``sweeps`` times. A group with few live
    tokens, which cannot fill the slots, has for the sum what it can fill: the live tokens or
    ``cap`` times their number over E, whichever is less. Float32; 0 for padding.
    """
    shares: Tensor = torch.ops.turnout.capped_shares(
        scores.detach(),
        context.group.flatten(),
        context.mask.flatten(),
        context.num_groups,
        slots,
        cap,
        strength,
        sweeps,
    )
    return shares


@torch.library.custom_op(
    "turnout::capped_shares",
    mutates_args=(),
    schema="(Tensor scores, Tensor group, Tensor mask, int num_groups, int slots, int cap, "
    "float strength, int sweeps) -> Tensor",
)
def _capped_op(scores, group, mask, num_groups, slots, cap, strength, sweeps):  # type: ignore[no-untyped-def]
    table = GroupTable.of(group, mask, num_groups)
    live = table.live.unsqueeze(2)
    size = table.size.double()
    filled = torch.minimum(size, size * cap / scores.shape[1]).clamp(max=slots)
    target = torch.log(filled).view(-1, 1, 1)
    share = torch.where(live, table.rows(scores) / strength, NOTHING)  # logarithms
    # What the projections on the two inequalities took away, given back before the next.
    over_cap = share.new_zeros(*share.shape[:2], 1)
    over_one = torch.zeros_like(share)
    for _ in range(sweeps):
        share = share + (target - torch.logsumexp(share, 1, keepdim=True)) + over_cap
        over_cap = (torch.logsumexp(share, 2, keepdim=True) - math.log(cap)).clamp(min=0)
        share = share - over_cap + over_one
        over_one = share.clamp(min=0)
        share = share - over_one
    return table.flat(torch.where(live, share.exp(), 0.0)).float()


@_capped_op.register_fake
def _(scores, group, mask, num_groups, slots, cap, strength, sweeps):  # type: ignore[no-untyped-def]
    return torch.empty_like(scores, dtype=torch.float32)
