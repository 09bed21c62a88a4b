"""Null experts: choices that compute nothing, and the budget that holds them."""

import math

import pytest
import torch

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from tests.moe.test_routers import router_for
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import NullExpertsRouter
from turnout.moe import RoutingContext
from turnout.moe.routers.balancer import Budget
from turnout.moe.routers.null_experts import turn

# Probabilities of two true experts and two nulls, of which a token takes the best two.
TOKENS = [
    [0.4, 0.1, 0.3, 0.2],  # expert 0, then a null
    [0.3, 0.1, 0.2, 0.4],  # a null, then expert 0
    [0.1, 0.1, 0.5, 0.3],  # two nulls
    [0.2, 0.5, 0.1, 0.2],  # expert 1, then expert 0: the tie goes to the true one
]
CONFIG = NullExpertsRouter(2, nulls=2)


def tokens():
    return torch.tensor([[[math.log(p) for p in token] for token in TOKENS]])


def route(bias=0.0):
    router = router_for(CONFIG, torch.eye(4), num_experts=2, d_model=4)
    router.balancer.bias.fill_(bias)
    return router(tokens(), RoutingContext.of(full_mask(1, 4)))


def test_choices_that_fall_on_a_null_are_not_live():
    assignment, stats = route()
    table = assignment.live.view(4, 2).tolist()
    assert table == [[True, False], [False, True], [False, False], [True, True]]
    live = assignment.live
    assert assignment.expert[live].tolist() == [0, 0, 1, 0]
    assert assignment.weight.tolist() == pytest.approx([0.4, 0, 0, 0.3, 0, 0, 0.5, 0.2])
    assert stats.assigned.tolist() == [[3, 1]]


def test_the_first_true_expert_is_the_first_choice():
    assignment, stats = route()
    assert assignment.choice[assignment.live].tolist() == [0, 0, 0, 1]
    assert stats.first_choice.tolist() == [[2, 1]]
    taken = torch.tensor([[False, True, False, True, True]])
    assert turn(taken).tolist() == [[0, 0, 1, 1, 2]]


def test_probabilities_are_those_among_true_experts():
    # .4 and .1 over .5, .3 and .1 over .4, .1 and .1 over .2, .2 and .5 over .7
    _, stats = route()
    expected = [0.8 + 0.75 + 0.5 + 2 / 7, 0.2 + 0.25 + 0.5 + 5 / 7]
    assert stats.probability[0].tolist() == pytest.approx(expected)
    assert stats.probability.sum().item() == pytest.approx(4.0)  # the tokens
    # every token's logits are logarithms of probabilities: their log-sum-exp is 0
    assert stats.z.item() == pytest.approx(0.0, abs=1e-10)


def test_the_bias_moves_choices_alone():
    assignment, stats = route(bias=math.log(1.9))
    # null scores .57 .38 | .38 .76 | .95 .57 | .19 .38 against the experts' .4 .3 .1 .5
    table = assignment.live.view(4, 2).tolist()
    assert table == [[False, True], [False, False], [False, False], [True, False]]
    assert assignment.weight[assignment.live].tolist() == pytest.approx([0.4, 0.5])
    assert torch.equal(stats.probability, route()[1].probability)


def test_a_token_may_use_no_expert_and_keeps_its_residual():
    layer = small_layer(CONFIG, num_experts=2, d_model=4)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4))
    y, stats, decision = layer(tokens(), RoutingContext.of(full_mask(1, 4)))
    assert decision.expert[0].tolist() == [[0, -1], [-1, 0], [-1, -1], [1, 0]]
    assert stats.unrouted.tolist() == [1]
    assert not y[0, 2].any() and y[0, [0, 1, 3]].any(1).all()


def test_nulls_learn_from_the_language_loss():
    layer = small_layer(NullExpertsRouter(2, nulls=2)).train()
    y, _, _ = layer(hidden(2, 16), RoutingContext.of(full_mask(2, 16)))
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((y * upstream).sum(), [layer.router.weight])
    assert (grad.abs().amax(1) > 1e-3).all()  # 4 true rows and 2 null ones


def test_the_budget_moves_by_the_sign_of_the_excess():
    budget = Budget(1.0, 0.5)
    budget.after_step(torch.tensor([3, 2]), 4)  # 1.25 experts a token
    assert budget.bias.item() == 0.5
    budget.after_step(torch.tensor([3, 1]), 4)  # 1
    assert budget.bias.item() == 0.5
    budget.after_step(torch.tensor([1, 1]), 4)  # 0.5
    budget.after_step(torch.tensor([0, 0]), 4)
    assert budget.bias.item() == -0.5
    budget.after_step(torch.tensor([0, 0]), 0)  # no token was routed
    assert budget.bias.item() == -0.5
    budget.reset()
    assert budget.bias.item() == 0.0


@pytest.mark.parametrize("target", [0.5, 1.0, 1.75])
def test_the_budget_is_kept(target):
    router = small_layer(
        NullExpertsRouter(2, nulls=4, budget=target, rate=0.02), num_experts=8
    ).router
    x, context = hidden(4, 128), ragged_context(4, 128, 20)
    count = int(context.mask.sum())

    def used():
        return router(x, context)[1].assigned.sum(0)

    start = abs(int(used().sum()) / count - target)
    for _ in range(150):
        router.balancer.after_step(used(), count)
    assert abs(int(used().sum()) / count - target) < 0.05 < start


def test_more_nulls_than_choices_leave_a_choice_and_fewer_force_one():
    x, context = hidden(1, 64), RoutingContext.of(full_mask(1, 64))
    for nulls, least in ((1, 1), (2, 0)):
        router = small_layer(NullExpertsRouter(2, nulls=nulls)).router
        router.balancer.bias.fill_(100.0)
        assert router(x, context)[0].live.view(64, 2).sum(1).unique().tolist() == [least]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NullExpertsRouter(0), "router.k = 0: must be at least 1"),
        (lambda: NullExpertsRouter(nulls=0), "router.nulls = 0: must be at least 1"),
        (lambda: NullExpertsRouter(2, budget=2.5), "router.budget = 2.5: .* from 0 to 2"),
        (lambda: NullExpertsRouter(4, 1, budget=2.0), "router.budget = 2.0: .* from 3 to 4"),
        (lambda: NullExpertsRouter(budget=0.0), "router.budget = 0.0: must be above 0"),
        (lambda: NullExpertsRouter(rate=0.0), "router.rate = 0.0: must be above 0"),
        (lambda: MoEConfig(2, NullExpertsRouter(3)), "moe.num_experts = 2: must be at least 3"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_parameters_are_counted():
    router = router_for(NullExpertsRouter(2, nulls=3), num_experts=4, d_model=6)
    assert router.weight.numel() == NullExpertsRouter(2, nulls=3).num_params(6, 4) == 42
