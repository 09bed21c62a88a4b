"""No token reads its future: change, cut and append, and see what earlier tokens got."""

import pytest
import torch

from tests.moe.cases import hidden, small_layer
from turnout.config.routers import (
    BaseRouter,
    ExpertChoiceRouter,
    InputJitter,
    SinkhornRouter,
    TopKRouter,
)
from turnout.moe import MoELayer, RoutingContext

LENGTH, DRAWS = 24, 207  # 9 texts for each of the 23 places to change


def context_of(rows: int, length: int) -> RoutingContext:
    return RoutingContext.build(
        torch.ones(rows, length, dtype=torch.bool), keys=torch.arange(rows) * 77
    )


def violations(layer: MoELayer, draws: int = DRAWS) -> int:
    """Draws in which anything before token t moved; each row of a batch is a draw of its own."""
    generator = torch.Generator().manual_seed(5)
    rows, found = draws // (LENGTH - 1), 0
    for t in range(1, LENGTH):
        x = hidden(rows, LENGTH + 1, seed=t)  # one token to spare for appending
        changed = x[:, :LENGTH].clone()
        changed[:, t] = torch.randn(rows, 8, generator=generator)
        y, _, decision = layer(x[:, :LENGTH], context_of(rows, LENGTH))
        scale = y.detach().abs().amax((1, 2))
        moved = torch.zeros(rows, dtype=torch.bool)
        for other, end in ((changed, t), (x[:, : t + 1], t + 1), (x, LENGTH)):
            seen, _, decided = layer(other, context_of(rows, other.shape[1]))
            moved |= (decided.expert[:, :end] != decision.expert[:, :end]).any((1, 2))
            moved |= (seen[:, :end] - y[:, :end]).detach().abs().amax((1, 2)) > 1e-5 * scale
        found += int(moved.sum())
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
    assert violations(layer) > DRAWS // 10


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cap", [None, 3])
def test_expert_choice_leaks(cap, training):
    """Forced into a decoder it shows a token which later ones there are."""
    router = ExpertChoiceRouter(2, cap)
    layer = small_layer(router, group_tokens=LENGTH, allow_future_routing=True).train(training)
    assert not layer.causal
    assert violations(layer) > DRAWS // 10


@pytest.mark.parametrize("router", [BaseRouter(), SinkhornRouter()], ids=lambda r: r.kind)
def test_balanced_assignments_leak_in_training_alone(router):
    layer = small_layer(router, group_tokens=LENGTH, allow_future_routing=True)
    assert not layer.causal
    assert violations(layer.eval()) == 0
    assert violations(layer.train(), DRAWS // 9) > DRAWS // 90
