"""Sigmoid top-k: weights, expert groups and the bias, by hand and against plain Python."""

import math

import pytest
import torch

from tests.moe.cases import full_mask, hidden, small_layer
from tests.moe.test_routers import route_logits, router_for
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import SigmoidTopKRouter
from turnout.moe import RoutingContext
from turnout.moe.losses import BALANCE_FORMS, LossSums, load_balancing_loss
from turnout.moe.routers.balancer import LoadBias
from turnout.moe.routers.expert_groups import BestGroups


def logits_of(*scores):
    """Logits whose sigmoids are ``scores``."""
    return [math.log(s / (1 - s)) for s in scores]


def test_weights_are_shares_of_the_chosen_scores():
    assignment, stats = route_logits(
        SigmoidTopKRouter(2, scale=2.5), [logits_of(0.8, 0.6, 0.4, 0.2)]
    )
    assert assignment.expert.tolist() == [0, 1]
    # 2.5 * .8 / 1.4 and 2.5 * .6 / 1.4
    assert assignment.weight.tolist() == pytest.approx([1.428571, 1.071429])
    # over the sum of all, 2
    assert stats.probability[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert assignment.log_probability.exp().tolist() == pytest.approx([0.4, 0.3])


def test_raw_weights_for_one_choice():
    assignment, _ = route_logits(
        SigmoidTopKRouter(1, scale=2.0, weights="raw"), [logits_of(0.3, 0.4)]
    )
    assert assignment.weight.tolist() == pytest.approx([0.8])


def test_the_bias_chooses_and_does_not_weigh():
    router = router_for(SigmoidTopKRouter(2), torch.eye(4), 4, 4)
    router.balancer.bias.copy_(torch.tensor([0.0, 0.0, 0.3, 0.0]))
    x = torch.tensor([[logits_of(0.8, 0.6, 0.4, 0.2)]])
    assignment, stats = router(x, RoutingContext.of(full_mask(1, 1)))
    assert assignment.expert.tolist() == [0, 2]  # .8 and .4 + .3 before .6
    assert assignment.weight.tolist() == pytest.approx([2 / 3, 1 / 3])  # .8 and .4 over 1.2
    assert stats.probability[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_group_counts_by_its_two_best_experts():
    # .8 + .1 = .9 against .6 + .5 = 1.1: the best expert of all is out of reach
    config = SigmoidTopKRouter(2, expert_groups=2, groups_kept=1)
    assignment, _ = route_logits(config, [logits_of(0.8, 0.1, 0.6, 0.5)])
    assert assignment.expert.tolist() == [2, 3]
    assert assignment.weight.tolist() == pytest.approx([6 / 11, 5 / 11])
    # 1.0 against 1.1; with the third experts it would be 1.5 against 1.15
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.9, 0.2, 0.05]])
    assert BestGroups(2, 1, counted=2).limited(scores)[0].tolist() == pytest.approx(
        [-math.inf] * 3 + [0.9, 0.2, 0.05]
    )


def test_groups_of_one_expert_count_by_it():
    config = SigmoidTopKRouter(2, expert_groups=4, groups_kept=2)
    assignment, _ = route_logits(config, [logits_of(0.2, 0.7, 0.1, 0.6)])
    assert assignment.expert.tolist() == [1, 3]


def slow_choice(scores, groups, kept, k):
    """What the definition says, for one token; ties to the lower number."""
    size = len(scores) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    pairs = [sorted((scores[e] for e in m), reverse=True)[:2] for m in members]
    value = [torch.tensor(pair).sum().item() for pair in pairs]  # ties are those of float32
    best = sorted(range(groups), key=lambda g: -value[g])[:kept]
    allowed = sorted(e for g in best for e in members[g])
    return sorted(allowed, key=lambda e: -scores[e])[:k]


@pytest.mark.parametrize(("groups", "kept", "k"), [(1, 1, 3), (2, 1, 4), (4, 2, 3), (8, 5, 5)])
def test_choices_are_those_of_the_definition(groups, kept, k):
    config = SigmoidTopKRouter(k, expert_groups=groups, groups_kept=kept)
    router = router_for(config, torch.eye(8), 8, 8)
    generator = torch.Generator().manual_seed(k)
    x = torch.randint(-3, 4, (1, 200, 8), generator=generator).float()  # many ties
    router.balancer.bias.copy_(torch.randint(-2, 3, (8,), generator=generator) / 8)
    scores = torch.sigmoid(x[0]) + router.balancer.bias
    assignment, _ = router(x, RoutingContext.of(full_mask(1, 200)))
    expected = [slow_choice(token, groups, kept, k) for token in scores.tolist()]
    assert assignment.expert.view(200, k).tolist() == expected


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_the_gate_with_groups_can_be_differentiated(rate):
    config = SigmoidTopKRouter(2, rate, expert_groups=2, groups_kept=1)
    logits = torch.tensor([[logits_of(0.8, 0.6, 0.5, 0.5)]], requires_grad=True)
    router = router_for(config, torch.eye(4), 4, 4).train()
    assert (router.balancer is None) == (rate == 0)
    assignment, _ = router(logits, RoutingContext.of(full_mask(1, 1)))
    (grad,) = torch.autograd.grad(assignment.weight[0], logits)
    # w = .8 / 1.4: dw/dl_0 = w (1 - w) (1 - .8) = 4/7 * 3/7 * .2; dw/dl_1 = -4/7 * 3/7 * .4
    assert grad[0, 0].tolist() == pytest.approx([12 / 49 * 0.2, -12 / 49 * 0.4, 0.0, 0.0])


def test_scores_that_vanish_in_float32_still_weigh_and_learn():
    logits = torch.tensor([[[-1e4, -1e4 + 1, -1e4 - 5]]], requires_grad=True)
    router = router_for(SigmoidTopKRouter(2), torch.eye(3), 3, 3).train()
    assignment, stats = router(logits, RoutingContext.of(full_mask(1, 1)))
    assert assignment.expert.tolist() == [0, 1]  # all scores are 0: a tie
    # e^0 and e^1 over their sum
    assert assignment.weight.tolist() == pytest.approx([0.268941, 0.731059], rel=1e-5)
    assert stats.probability.sum().item() == pytest.approx(1.0)
    (grad,) = torch.autograd.grad(assignment.weight[1], logits)
    assert grad[0, 0].tolist() == pytest.approx([-0.196612, 0.196612, 0.0], rel=1e-5)  # w (1 - w)


def test_the_sequence_loss_of_equal_scores_is_one():
    # f = E / (K T) * counts = 4 / 2 for two experts, P = 1 / 4 each: 2 * 2 / 4
    layer = small_layer(SigmoidTopKRouter(2))
    torch.nn.init.zeros_(layer.router.weight)
    stats = layer(hidden(1, 8), RoutingContext.of(full_mask(1, 8)))[1]
    form = BALANCE_FORMS["deepseek"]
    assert load_balancing_loss(LossSums.of(stats), choices=2, form=form).item() == pytest.approx(1)


def test_the_bias_moves_by_the_sign_of_what_is_missing():
    balancer = LoadBias(4, 0.5)
    balancer.after_step(torch.tensor([5, 2, 1, 0]), 8)  # the mean is 2
    assert balancer.bias.tolist() == [-0.5, 0.0, 0.5, 0.5]
    balancer.after_step(torch.tensor([3, 1, 0, 0]), 4)  # the mean is 1
    assert balancer.bias.tolist() == [-1.0, 0.0, 1.0, 1.0]
    balancer.after_step(torch.zeros(4, dtype=torch.int64), 0)
    assert balancer.bias.tolist() == [-1.0, 0.0, 1.0, 1.0]
    balancer.reset()
    assert not balancer.bias.any()


def test_loads_are_compared_exactly():
    # loads that differ by 1 at 2^40, where float32 knows only multiples of 2^17
    balancer = LoadBias(2, 1.0)
    balancer.after_step(torch.tensor([2**40 + 1, 2**40 - 1]), 2**40)
    assert balancer.bias.tolist() == [-1.0, 1.0]


def test_the_bias_evens_out_the_loads():
    router = small_layer(SigmoidTopKRouter(2, 2e-3), num_experts=8).router
    with torch.no_grad():  # experts 0 and 1 would take nearly all
        router.weight[:, 0] += torch.tensor([2.0, 2.0, 0, 0, 0, 0, 0, 0])
    x = hidden(1, 512)
    x[:, :, 0] = 1.0
    context = RoutingContext.of(full_mask(1, 512))

    def worst():
        return router(x, context)[1].assigned[0].max().item() / 128  # 512 * 2 / 8

    assert worst() > 2.5
    for _ in range(200):
        router.balancer.after_step(router(x, context)[1].assigned[0], 512)
    assert worst() < 1.05


def test_initial_weights_start_with_no_bias():
    router = router_for(SigmoidTopKRouter(2), num_experts=4)
    router.balancer.bias.fill_(1.0)
    router.init_weights()
    assert not router.balancer.bias.any()
    assert router.balancer.bias.dtype == torch.float32
    assert [name for name, _ in router.named_parameters()] == ["weight"]
    assert set(router.state_dict()) == {"weight", "balancer.bias"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SigmoidTopKRouter(0), "router.k = 0: must be at least 1"),
        (lambda: SigmoidTopKRouter(1), "router.weights = 'renormalised': must be 'raw' when"),
        (lambda: SigmoidTopKRouter(bias_rate=-1.0), "router.bias_rate = -1.0: must be at least 0"),
        (lambda: SigmoidTopKRouter(scale=0.0), "router.scale = 0.0: must be above 0"),
        (lambda: SigmoidTopKRouter(groups_kept=2), "router.groups_kept = 2: must be from 1 to"),
        (
            lambda: MoEConfig(8, SigmoidTopKRouter(expert_groups=3)),
            "router.expert_groups = 3: must be a divisor of the 8 experts",
        ),
        (
            lambda: MoEConfig(8, SigmoidTopKRouter(3, expert_groups=4)),
            "router.k = 3: must be at most 2, the experts in router.groups_kept = 1 of 4",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
