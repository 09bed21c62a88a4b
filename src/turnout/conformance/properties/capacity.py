"""Slots: none used twice, none beyond capacity, and outputs and gradients of a plain loop."""

import torch
from torch import Tensor, nn

from turnout.conformance.properties.base import Property, close, require
from turnout.conformance.samples import context, ragged, states
from turnout.conformance.subject import Setting, Subject, chosen
from turnout.moe.capacity import grant
from turnout.moe.context import RoutingContext


def slots(subject: Subject) -> str:
    """Kept assignments have distinct slots below the capacity, one an expert and token."""
    layer = subject.layer(Setting(capacity=0.5))
    x, where = states(subject.d_model), context(ragged())
    seen = subject.see(layer, x, where)
    assert seen.stats is not None and seen.decision is not None
    capacity = int(layer.capacity.train)  # type: ignore[union-attr, arg-type]
    require(
        int(seen.stats.kept.max()) <= capacity,
        f"an expert keeps {int(seen.stats.kept.max())} of a group, its capacity is {capacity}",
    )
    often = chosen(seen.decision, seen.stats.kept.shape[1])
    require(int(often.max()) <= 1, "a token takes two slots of one expert")
    require(int(often.sum()) == int(seen.stats.kept.sum()), "decisions and counts disagree")
    padded = ~where.mask.flatten()
    require(int(often[padded].sum()) == 0, "padding takes slots")
    return f"at most {int(seen.stats.kept.max())} of {capacity} slots, no slot twice"


def gradients(subject: Subject) -> str:
    """Output and every gradient equal those of a loop over dense experts."""
    worst = 0.0
    for setting in (Setting(), Setting(capacity=0.5)):
        x, where = states(subject.d_model), context(ragged())
        results = []
        for run in (_layer_output, _loop_output):
            layer = subject.layer(setting)
            leaf = x.clone().requires_grad_()
            y = run(subject, layer, leaf, where)
            upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
            wanted = [leaf, *layer.parameters()]
            grads = torch.autograd.grad(
                (y * upstream).sum(), wanted, allow_unused=True, materialize_grads=True
            )
            results.append([y.detach(), *grads])
        for found, expected in zip(*results, strict=True):
            worst = max(worst, close(found, expected, "output or gradient against the loop's"))
    return f"output and gradients within {worst:.1g} of a dense loop's"


def _layer_output(subject: Subject, layer: nn.Module, x: Tensor, where: RoutingContext) -> Tensor:
    return subject.see(layer, x, where).y


def _loop_output(subject: Subject, layer: nn.Module, x: Tensor, where: RoutingContext) -> Tensor:
    """Every expert on every token, times its combine weight: no dispatch, no sorting."""
    assignment, _ = layer.router(x, where)  # type: ignore[operator]
    _, kept = grant(
        assignment,
        layer.priority.order(assignment, where),  # type: ignore[union-attr, operator]
        where.group.flatten(),
        num_groups=where.num_groups,
        num_experts=layer.experts.num_experts,  # type: ignore[union-attr, arg-type]
        capacity=layer.capacity.train,  # type: ignore[union-attr, arg-type]
        at_most=layer.router.at_most,  # type: ignore[union-attr, arg-type]
    )
    experts = layer.experts
    tokens = torch.where(where.mask.unsqueeze(-1), x, 0.0).flatten(0, 1)
    y = torch.zeros_like(tokens)
    for expert, (w_in, w_out) in enumerate(zip(experts.w_in, experts.w_out, strict=True)):  # type: ignore[union-attr, arg-type]
        entries = torch.where(kept & (assignment.expert == expert), assignment.weight, 0.0)
        weight = entries.new_zeros(tokens.shape[0]).index_add(0, assignment.token, entries)
        y = y + weight.unsqueeze(1) * (torch.relu(tokens @ w_in) @ w_out)
    return y.view_as(x)


CAPACITY = (
    Property("slots", slots, white_box=True),
    Property("gradients", gradients, white_box=True),
)
