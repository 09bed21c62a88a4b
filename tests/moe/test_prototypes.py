"""Prototypes: k Switch routers side by side, by hand."""

import math

import pytest
import torch

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from tests.moe.test_routers import route_logits
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import PrototypesRouter, SwitchRouter
from turnout.moe import RoutingContext
from turnout.moe.losses import BALANCE_FORMS, LossSums, load_balancing_loss


def logs(*probabilities):
    return [math.log(p) for p in probabilities]


TOKENS = [logs(0.6, 0.4, 0.3, 0.7), logs(0.7, 0.3, 0.5, 0.5)]  # two prototypes of two experts


def test_the_best_of_each_prototype():
    assignment, stats = route_logits(PrototypesRouter(2), TOKENS)
    assert assignment.expert.tolist() == [0, 3, 0, 2]  # the tie .5, .5 goes to the lower
    assert assignment.weight.tolist() == pytest.approx([0.6, 0.7, 0.7, 0.5])
    assert assignment.choice.tolist() == [0, 0, 0, 0]
    # halves of the sums .6 + .7, .4 + .3, .3 + .5, .7 + .5: 2 in all, the tokens
    assert stats.probability[0].tolist() == pytest.approx([0.65, 0.35, 0.4, 0.6])
    assert assignment.log_probability.exp().tolist() == pytest.approx([0.3, 0.35, 0.35, 0.25])


def test_weights_stay_within_a_prototype():
    # Adding to all logits of one prototype changes nothing, however large.
    shifted = [[a + 50, b + 50, c, d] for a, b, c, d in TOKENS]
    plain, moved = (
        route_logits(PrototypesRouter(2), TOKENS),
        route_logits(PrototypesRouter(2), shifted),
    )
    assert torch.equal(plain[0].expert, moved[0].expert)
    assert torch.allclose(plain[0].weight, moved[0].weight, atol=1e-5)


def switch_loss(stats, choices):
    sums = LossSums(
        tokens=stats.tokens,
        assigned=stats.assigned,
        first_choice=stats.first_choice,
        probability=stats.probability,
        weight=stats.weight,
        load=stats.load,
    )
    return load_balancing_loss(sums, choices=choices, form=BALANCE_FORMS["switch"]).tolist()


def test_the_switch_loss_is_the_sum_over_prototypes():
    # f: 1, 0 | .5, .5. Means of p: .65, .35 | .4, .6.
    # Prototype 1: 2 * (1 * .65) = 1.3; prototype 2: 2 * (.5 * .4 + .5 * .6) = 1. Sum 2.3.
    _, stats = route_logits(PrototypesRouter(2), TOKENS)
    assert switch_loss(stats, 2) == pytest.approx([2.3])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_switch_loss_of_a_uniform_router_is_k(k):
    # each prototype: J * (1 * 1 / J) = 1
    _, stats = route_logits(PrototypesRouter(k), [[0.0] * 8] * 3)
    assert switch_loss(stats, k) == pytest.approx([k])


def test_z_and_entropy_of_zero_logits():
    # two prototypes of log-sum-exp ln 2 each; the entropy of 1/4 four times
    _, stats = route_logits(PrototypesRouter(2), [[0.0] * 4])
    assert stats.z.tolist() == pytest.approx([2 * math.log(2) ** 2])
    assert stats.entropy.tolist() == pytest.approx([math.log(4)])


def test_one_prototype_is_the_switch_router():
    one, switch = (small_layer(router).train() for router in (PrototypesRouter(1), SwitchRouter()))
    x, context = hidden(3, 8), ragged_context(3, 8)
    found, expected = one(x, context), switch(x, context)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2].expert, expected[2].expert)
    for name in ("assigned", "first_choice", "probability", "weight", "z", "entropy"):
        assert torch.equal(getattr(found[1].router, name), getattr(expected[1].router, name)), name


def test_every_prototype_is_balanced_apart():
    layer = small_layer(PrototypesRouter(4), num_experts=8).eval()
    stats = layer(hidden(2, 16), RoutingContext.of(full_mask(2, 16)))[1]
    assert stats.router.assigned.view(2, 4, 2).sum(2).tolist() == [[16] * 4] * 2


@pytest.mark.parametrize(("experts", "k"), [(8, 3), (4, 4), (2, 2)])
def test_prototypes_are_equal_and_leave_a_choice(experts, k):
    with pytest.raises(ConfigError, match=f"router.k = {k}: must be a divisor of the {experts}"):
        MoEConfig(experts, PrototypesRouter(k))
