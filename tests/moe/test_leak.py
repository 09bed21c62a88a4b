"""No token reads its future: change, cut and append, and see what earlier tokens got."""

import pytest
import torch

from tests.moe.cases import hidden, small_layer
from turnout.config.routers import InputJitter, TopKRouter
from turnout.moe import MoELayer, RoutingContext

LENGTH, DRAWS = 24, 200


def context_of(length: int) -> RoutingContext:
    return RoutingContext.build(torch.ones(1, length, dtype=torch.bool), keys=torch.tensor([77]))


def violations(layer: MoELayer, draws: int = DRAWS) -> int:
    """Draws in which anything before token t moved; x has one token to spare for appending."""
    generator = torch.Generator().manual_seed(5)
    found = 0
    for draw in range(draws):
        x = hidden(1, LENGTH + 1, seed=draw)
        t = int(torch.randint(1, LENGTH, (1,), generator=generator))
        changed = x[:, :LENGTH].clone()
        changed[:, t] = torch.randn(8, generator=generator)
        y, _, decision = layer(x[:, :LENGTH], context_of(LENGTH))
        scale = float(y.detach().abs().max())
        for other, end in ((changed, t), (x[:, : t + 1], t + 1), (x, LENGTH)):
            seen, _, decided = layer(other, context_of(other.shape[1]))
            same = torch.equal(decided.expert[:, :end], decision.expert[:, :end])
            drift = float((seen[:, :end] - y[:, :end]).detach().abs().max())
            found += not same or drift > 1e-5 * scale
    return found


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 2])
def test_token_order_never_leaks(k, factor):
    router = TopKRouter(k, "raw", InputJitter(0.1))
    layer = small_layer(router, group_tokens=LENGTH, train_capacity_factor=factor).train()
    assert layer.causal
    assert violations(layer) == 0


@pytest.mark.parametrize("priority", ["choice", "score", "random"])
def test_the_measure_sees_a_leak_where_there_is_one(priority):
    layer = small_layer(
        TopKRouter(2), group_tokens=LENGTH, train_capacity_factor=0.5, priority=priority
    ).train()
    assert not layer.causal
    assert violations(layer, 20) > 0
