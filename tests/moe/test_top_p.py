"""Top-p: how many experts a token takes, and their weights."""

import pytest
import torch

from tests.moe.cases import full_mask, hidden, small_layer
from tests.moe.test_routers import LOG, route_logits, router_for
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import InputJitter, SwitchRouter, TopPRouter
from turnout.moe import RoutingContext


@pytest.mark.parametrize(
    ("p", "most", "live"),
    [
        (0.45, 3, [True, False, False]),  # .5 is enough
        (0.6, 3, [True, True, False]),  # .5 is not, .8 is
        (0.85, 3, [True, True, True]),  # .8 is not
        (0.85, 2, [True, True]),  # no more are named
        (1.0, 3, [True, True, True]),
    ],
)
def test_experts_until_their_probabilities_reach_p(p, most, live):
    assignment, _ = route_logits(TopPRouter(p, most), LOG)
    assert assignment.live.tolist() == live
    weights = [w if on else 0.0 for w, on in zip((0.5, 0.3, 0.2), live, strict=False)]
    assert assignment.weight.tolist() == pytest.approx(weights)


def test_reaching_p_exactly_is_enough():
    # eighths are exact: 4 of 8 make .5, and the fifth stands behind .5
    assignment, stats = route_logits(TopPRouter(0.5, 8), [[0.0] * 8])
    assert assignment.live.tolist() == [True] * 4 + [False] * 4
    assert stats.assigned[0].tolist() == [1] * 4 + [0] * 4


def test_renormalised_over_what_is_taken():
    assignment, _ = route_logits(TopPRouter(0.6, 3, "renormalised"), LOG)
    assert assignment.weight.tolist() == pytest.approx([0.625, 0.375, 0.0])  # .5 and .3 over .8
    assignment, _ = route_logits(TopPRouter(0.45, 3, "renormalised"), LOG)
    assert assignment.weight.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("p", [0.3, 0.6, 0.9])
def test_no_token_takes_more_than_it_takes(p):
    layer = small_layer(TopPRouter(p, 5), num_experts=8).train()
    assignment, _ = layer.router(hidden(1, 400), RoutingContext.of(full_mask(1, 400)))
    live, weight = assignment.live.view(400, 5), assignment.weight.detach().view(400, 5)
    count, total = live.sum(1), weight.sum(1)
    last = weight.take_along_dim(count.unsqueeze(1) - 1, dim=1).squeeze(1)
    assert count.min() >= 1 and len(count.unique()) > 1
    assert torch.equal(live, torch.arange(5) < count.unsqueeze(1))  # the best ones
    assert ((total >= p - 1e-6) | (count == 5)).all()
    assert (total - last < p + 1e-6).all()  # one fewer would not do


def test_one_at_most_is_the_switch_router():
    layers = [small_layer(r).train() for r in (TopPRouter(0.9, 1), SwitchRouter())]
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    found, expected = (layer(x, context) for layer in layers)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1].router.entropy, expected[1].router.entropy)


# p = e^3 / (e^3 + 2) = .9094 is enough alone; dp/dl = p (1 - p)
@pytest.mark.parametrize(("weights", "slope"), [("raw", 0.0824), ("renormalised", 0.0)])
def test_a_lone_renormalised_expert_has_no_gradient_and_a_raw_one_has(weights, slope):
    router = router_for(TopPRouter(0.5, 2, weights), torch.eye(3)).train()
    x = torch.tensor([[[3.0, 0.0, 0.0]]], requires_grad=True)
    assignment, _ = router(x, RoutingContext.of(full_mask(1, 1)))
    (grad,) = torch.autograd.grad(assignment.weight.sum(), x)
    assert grad[0, 0, 0].item() == pytest.approx(slope, abs=1e-4)


def test_it_explores():
    layer = small_layer(TopPRouter(0.6, 3, exploration=InputJitter(0.5))).train()
    x = hidden(1, 16)
    draws = [
        layer.router(x, RoutingContext.of(full_mask(1, 16), step))[0].weight for step in (0, 1)
    ]
    assert not torch.equal(*draws)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopPRouter(0.0), "router.p = 0.0: must be above 0 and at most 1"),
        (lambda: TopPRouter(1.1), "router.p = 1.1: must be above 0 and at most 1"),
        (lambda: TopPRouter(most=0), "router.most = 0: must be at least 1"),
        (lambda: TopPRouter(0.5, 1, "renormalised"), "router.weights = .* 'raw' when router.most"),
        (lambda: MoEConfig(4, TopPRouter(most=5)), "moe.num_experts = 4: must be at least 5"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
