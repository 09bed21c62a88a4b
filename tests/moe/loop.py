"""The slow twin of the sparse layer: a plain Python loop over tokens, in the dtype of its input.

It shares nothing with the fast paths but the router's decisions: serving order, capacity, the
experts' arithmetic and the combination are written out one token at a time.
"""

import torch
from torch import Tensor

from turnout.moe import Assignment, Experts, MoELayer, RoutingContext
from turnout.nn.activations import activate


def served(
    assignment: Assignment,
    order: list[int],
    group: list[int],
    capacity: int | None,
    at_most: int | None = None,
) -> dict[int, int]:
    """Assignment -> slot, by walking the order and counting."""
    used: dict[tuple[int, int], int] = {}
    taken: dict[int, int] = {}
    slots: dict[int, int] = {}
    for entry in order:
        if not assignment.live[entry]:
            continue
        token, expert = int(assignment.token[entry]), int(assignment.expert[entry])
        cell = (group[token], expert)
        full = capacity is not None and used.get(cell, 0) >= capacity
        done = at_most is not None and taken.get(token, 0) >= at_most
        if full or done:
            continue
        slots[entry] = used.get(cell, 0)
        used[cell] = slots[entry] + 1
        taken[token] = taken.get(token, 0) + 1
    return slots


def expert_output(experts: Experts, expert: int, x: Tensor) -> Tensor:
    """One expert on one row, every weight cast to the row's dtype."""

    def part(weight: Tensor | None) -> Tensor | None:
        return None if weight is None else weight.unbind(0)[expert].to(x.dtype)

    def project(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = row @ weight
        return out if bias is None else out + bias

    w_in, w_out, w_gate = part(experts.w_in), part(experts.w_out), part(experts.w_gate)
    assert w_in is not None and w_out is not None
    gate = None if w_gate is None else project(x, w_gate, part(experts.b_gate))
    hidden = activate(experts.config.activation, project(x, w_in, part(experts.b_in)), gate)
    bias = part(experts.hidden_bias)
    if bias is not None:
        hidden = hidden * bias if experts.config.hidden_bias == "multiplicative" else hidden + bias
    return project(hidden, w_out, part(experts.b_out))


def layer_output(layer: MoELayer, x: Tensor, context: RoutingContext) -> Tensor:
    """The layer's output token by token; routed by its router, in its mode."""
    assignment, _ = layer.router(x, context)
    priority = layer.priority if layer.training else layer.priority.noiseless()
    order = priority.order(assignment, context).tolist()
    capacity = layer.capacity.train if layer.training else layer.capacity.evaluation
    group = context.group.flatten().tolist()
    slots = served(assignment, order, group, capacity, layer.router.at_most)
    tokens = x.flatten(0, 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = [torch.zeros(x.shape[2], dtype=wide) for _ in range(assignment.num_tokens)]
    for entry in range(assignment.token.shape[0]):
        if entry in slots:
            token, expert = int(assignment.token[entry]), int(assignment.expert[entry])
            y = expert_output(layer.experts, expert, tokens[token])
            rows[token] = rows[token] + assignment.weight[entry] * y
    return torch.stack(rows).to(x.dtype).view_as(x)
