"""Softmax top-k within the best groups of experts (DeepSeek-V2), by hand and against a loop."""

import math

import pytest
import torch

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from tests.moe.test_routers import route_logits, router_for
from turnout.config import io
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import SampledSoftmax, TopKRouter
from turnout.moe import RoutingContext
from turnout.moe.routers.expert_groups import BestGroups


def logs(*probabilities):
    return [math.log(p) for p in probabilities]


def test_a_group_counts_by_its_best_expert():
    # best of {.35, .02}, {.2, .18}, {.15, .1}: .35, .2, .15; by sums of two it would be .38 before
    # .37 and .25, and with one group kept the second
    config = TopKRouter(2, "raw", expert_groups=3, groups_kept=1, scale=16.0)
    assignment, stats = route_logits(config, [logs(0.35, 0.02, 0.2, 0.18, 0.15, 0.1)])
    assert assignment.expert.tolist() == [0, 1]
    # probabilities are among all experts, open or not: 16 * .35 and 16 * .02
    assert assignment.weight.tolist() == pytest.approx([5.6, 0.32], rel=1e-5)
    assert assignment.log_probability.exp().tolist() == pytest.approx([0.35, 0.02])
    assert stats.probability[0].tolist() == pytest.approx([0.35, 0.02, 0.2, 0.18, 0.15, 0.1])


def test_two_groups_kept_leave_a_good_expert_out_of_reach():
    # {.3, .01}, {.04, .25}, {.24, .16}: kept are the first two, so that .24 is not third
    config = TopKRouter(3, "renormalised", expert_groups=3, groups_kept=2)
    assignment, _ = route_logits(config, [logs(0.3, 0.01, 0.04, 0.25, 0.24, 0.16)])
    assert assignment.expert.tolist() == [0, 3, 2]
    # over .3 + .25 + .04 = .59
    assert assignment.weight.tolist() == pytest.approx([30 / 59, 25 / 59, 4 / 59], rel=1e-5)


def test_ties_go_to_the_group_of_lower_number():
    config = TopKRouter(2, expert_groups=4, groups_kept=1)
    assignment, _ = route_logits(config, [[0.0] * 8])
    assert assignment.expert.tolist() == [0, 1]


@pytest.mark.parametrize("weights", ["raw", "renormalised", "softmax_of_selected"])
def test_the_scale_multiplies_every_form(weights):
    logits = [logs(0.5, 0.3, 0.2)]
    plain, _ = route_logits(TopKRouter(2, weights), logits)
    scaled, _ = route_logits(TopKRouter(2, weights, scale=2.5), logits)
    assert torch.equal(scaled.weight, 2.5 * plain.weight)
    assert torch.equal(scaled.log_probability, plain.log_probability)


def slow_choice(scores, groups, kept, k):
    """What the definition says, for one token; ties to the lower number."""
    size = len(scores) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    best = sorted(range(groups), key=lambda g: -max(scores[e] for e in members[g]))[:kept]
    allowed = sorted(e for g in best for e in members[g])
    return sorted(allowed, key=lambda e: -scores[e])[:k]


@pytest.mark.parametrize(
    ("experts", "groups", "kept", "k"), [(8, 2, 1, 4), (9, 3, 2, 5), (8, 8, 3, 3), (12, 4, 4, 6)]
)
def test_outputs_and_gradients_are_those_of_the_definition(experts, groups, kept, k):
    config = TopKRouter(k, "raw", expert_groups=groups, groups_kept=kept, scale=1.5)
    generator = torch.Generator().manual_seed(k)
    x = torch.randint(-3, 4, (1, 60, experts), generator=generator).float()  # many ties
    x.requires_grad_()
    router = router_for(config, torch.eye(experts), experts, experts).train()
    assignment, _ = router(x, RoutingContext.of(full_mask(1, 60)))
    pull = torch.randn(60, k, generator=generator)
    (found,) = torch.autograd.grad((assignment.weight.view(60, k) * pull).sum(), x)

    chosen = [slow_choice(token, groups, kept, k) for token in x[0].tolist()]
    assert assignment.expert.view(60, k).tolist() == chosen
    expected = torch.stack(
        [1.5 * torch.softmax(x[0, t], 0)[chosen[t]] for t in range(60)]  # a token at a time
    )
    assert torch.allclose(assignment.weight.view(60, k), expected, rtol=1e-5)
    (slow,) = torch.autograd.grad((expected * pull).sum(), x)
    assert torch.allclose(found, slow, rtol=1e-4, atol=1e-6)


def test_exploration_stays_within_the_groups_that_its_own_scores_open():
    config = TopKRouter(2, "raw", SampledSoftmax(), expert_groups=4, groups_kept=1)
    layer = small_layer(config, num_experts=8).train()
    chosen = layer(hidden(4, 32), ragged_context(4, 32))[2].named
    real = chosen[chosen[..., 0] >= 0]
    groups = real // 2
    assert bool((groups[:, 0] == groups[:, 1]).all())
    assert len(groups.unique()) == 4  # it does explore


def test_one_group_or_all_kept_is_plain_top_k():
    x, context = hidden(2, 16), ragged_context(2, 16)
    plain = small_layer(TopKRouter(2), num_experts=8)(x, context)[0]
    for groups in (1, 4):
        config = TopKRouter(2, expert_groups=groups, groups_kept=groups)
        assert torch.equal(small_layer(config, num_experts=8)(x, context)[0], plain)


def test_groups_with_one_expert_each_are_top_k_of_the_groups():
    x, context = hidden(2, 16), ragged_context(2, 16)
    config = TopKRouter(3, expert_groups=8, groups_kept=3)
    found = small_layer(config, num_experts=8)(x, context)[0]
    plain = small_layer(TopKRouter(3), num_experts=8)(x, context)[0]
    assert torch.equal(found, plain)


def test_what_counts_differs_between_the_versions():
    scores = torch.tensor([[0.5, 0.1, 0.4, 0.35]])
    closed = [-math.inf, -math.inf]
    assert BestGroups(2, 1, counted=1).limited(scores)[0].tolist() == pytest.approx(
        [0.5, 0.1, *closed]
    )
    # .6 against .75
    assert BestGroups(2, 1, counted=2).limited(scores)[0].tolist() == pytest.approx(
        [*closed, 0.4, 0.35]
    )


def test_the_fields_go_through_a_file():
    moe = MoEConfig(8, TopKRouter(3, "raw", expert_groups=4, groups_kept=2, scale=16.0))
    assert io.from_dict(MoEConfig, io.to_dict(moe)) == moe


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopKRouter(scale=0.0), "router.scale = 0.0: must be above 0"),
        (lambda: TopKRouter(scale=math.nan), "router.scale = nan: must be above 0"),
        (lambda: TopKRouter(expert_groups=0), "router.expert_groups = 0: must be at least 1"),
        (lambda: TopKRouter(groups_kept=2), "router.groups_kept = 2: must be from 1 to"),
        (
            lambda: MoEConfig(8, TopKRouter(expert_groups=3)),
            "router.expert_groups = 3: must be a divisor of the 8 experts",
        ),
        (
            lambda: MoEConfig(8, TopKRouter(3, expert_groups=4)),
            "router.k = 3: must be at most 2, the experts in router.groups_kept = 1 of 4",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
