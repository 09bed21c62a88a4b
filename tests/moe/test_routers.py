"""Routers: choices, weights, exploration and statistics, by hand and by distribution."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.moe.cases import ROUTERS, full_mask, hidden, ragged_context, small_layer, told
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import (
    InputDropout,
    InputJitter,
    NoisyTopKRouter,
    SampledSoftmax,
    SwitchRouter,
    Top2Router,
    TopKRouter,
)
from turnout.config.routers.base import router_flops
from turnout.moe import RouterShape, RoutingContext, build_router
from turnout.moe.noise import Stream, token_noise
from turnout.moe.routers.noisy_top_k import smooth_load
from turnout.moe.routers.scores import best


def router_for(config, logits_weight=None, num_experts=3, d_model=3):
    router = build_router(config, RouterShape(d_model, num_experts))
    router.init_weights(torch.Generator().manual_seed(0))
    if logits_weight is not None:
        with torch.no_grad():
            router.weight.copy_(logits_weight)
    return router


def route_logits(config, logits, training=False):
    """Routes one row whose logits are exactly ``logits`` (identity weights)."""
    table = torch.tensor(logits).unsqueeze(0)
    experts = table.shape[2]
    router = router_for(config, torch.eye(experts), experts, experts).train(training)
    return router(table, RoutingContext.of(full_mask(1, table.shape[1])))


LOG = [[math.log(0.5), math.log(0.3), math.log(0.2)]]


def test_switch_weight_is_the_raw_probability_of_the_best():
    assignment, _ = route_logits(SwitchRouter(), LOG)
    assert assignment.expert.tolist() == [0]
    assert assignment.weight.tolist() == pytest.approx([0.5])


def test_top_2_weights_by_hand():
    raw, _ = route_logits(TopKRouter(2, "raw"), LOG)
    assert raw.expert.tolist() == [0, 1]
    assert raw.weight.tolist() == pytest.approx([0.5, 0.3])
    # .5 / .8 and .3 / .8
    for form in ("renormalised", "softmax_of_selected"):
        normalised, _ = route_logits(TopKRouter(2, form), LOG)
        assert normalised.weight.tolist() == pytest.approx([0.625, 0.375])


def test_combine_weights_of_kept_top_2_choices():
    # 2 tokens that both want experts 0 then 1, one slot each, token order: token 0 keeps both,
    # .625 + .375 = 1; token 1 keeps none. With weights after drops the rest is rescaled to 1.
    layer = small_layer(
        TopKRouter(2), num_experts=4, d_model=4, group_tokens=2, train_capacity_factor=1.0
    )
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4))
    logits = torch.tensor([[math.log(0.5), math.log(0.3), -9.0, -9.0]])
    x = torch.stack([logits, logits], 1)
    _, stats, decision = layer.train()(x, RoutingContext.of(full_mask(1, 2)))
    assert layer.capacity.train == 1  # 1.0 * 2 choices * 2 tokens / 4 experts
    assert decision.expert.tolist() == [[[0, 1], [-1, -1]]]
    assert decision.weight[0, 0].tolist() == pytest.approx([0.625, 0.375])
    assert decision.weight[0, 1].tolist() == [0.0, 0.0]
    assert stats.unrouted.tolist() == [1]


def test_weights_after_drops_are_rescaled_to_one():
    # Token 0 wants 0 and 1; token 1 wants 1 and 0 with .5 and .3: in choice order with one slot
    # each, both keep their first choice alone, whose weight becomes 1.
    layer = small_layer(
        TopKRouter(2),
        num_experts=4,
        d_model=4,
        group_tokens=2,
        train_capacity_factor=1.0,
        priority="choice",
        weights_after_drops=True,
    )
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4))
    a, b = math.log(0.5), math.log(0.3)
    x = torch.tensor([[[a, b, -9.0, -9.0], [b, a, -9.0, -9.0]]])
    _, _, decision = layer.train()(x, RoutingContext.of(full_mask(1, 2)))
    assert decision.expert.tolist() == [[[0, -1], [1, -1]]]
    assert decision.weight.flatten().tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0])


def test_ties_go_to_the_lowest_expert():
    assert best(torch.zeros(2, 8), 3).tolist() == [[0, 1, 2]] * 2
    assert best(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), 3).tolist() == [[1, 2, 0]]


def test_z_loss_of_zero_logits():
    # logsumexp of E zeros is ln E; two tokens add up
    _, stats = route_logits(SwitchRouter(), [[0.0] * 4, [0.0] * 4])
    assert stats.z.tolist() == pytest.approx([2 * math.log(4) ** 2])
    assert stats.entropy.tolist() == pytest.approx([2 * math.log(4)])
    assert stats.top_probability.tolist() == pytest.approx([0.5])


def test_second_expert_is_kept_with_the_published_probability():
    # g2 = .3 / (.5 + .3) = .375: GShard keeps it with probability min(1, .375 / .5) = .75
    tokens = 4000
    assignment, _ = route_logits(Top2Router(threshold=0.5), LOG * tokens, training=True)
    kept = float(assignment.live.view(-1, 2)[:, 1].float().mean())
    assert abs(kept - 0.75) < 4 * math.sqrt(0.75 * 0.25 / tokens)
    # Mesh: .375 / .2 > 1, always
    assignment, _ = route_logits(Top2Router(threshold=0.2), LOG * 50, training=True)
    assert assignment.live.all()


@pytest.mark.parametrize(
    ("policy", "taken"), [("all", True), ("none", False), ("threshold", False)]
)
def test_second_expert_in_evaluation_is_certain(policy, taken):
    config = Top2Router(second_in_evaluation=policy, threshold=0.4)  # .375 < .4
    assignment, _ = route_logits(config, LOG)
    assert assignment.live.tolist() == [True, taken]
    # the first choice keeps the weight it had before the second was declined
    assert assignment.weight[0].item() == pytest.approx(0.625)


def test_sampled_softmax_draws_from_the_softmax():
    tokens = 6000
    assignment, _ = route_logits(SwitchRouter(SampledSoftmax()), LOG * tokens, training=True)
    share = torch.bincount(assignment.expert, minlength=3) / tokens
    for found, expected in zip(share.tolist(), (0.5, 0.3, 0.2), strict=True):
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / tokens)
    # the weight is the probability of what was drawn
    drawn = torch.tensor([0.5, 0.3, 0.2]).index_select(0, assignment.expert)
    assert torch.allclose(assignment.weight, drawn)


@pytest.mark.parametrize("policy", [InputJitter(0.3), InputDropout(0.3), SampledSoftmax()])
def test_exploration_is_for_training_alone(policy):
    config = SwitchRouter(policy)
    x = hidden(2, 16, 6)
    router = router_for(config, num_experts=4, d_model=6)
    context = RoutingContext.of(full_mask(2, 16))
    plain = router_for(SwitchRouter(), router.weight, 4, 6)
    noisy, quiet = router.train()(x, context)[0], router.eval()(x, context)[0]
    expected = plain(x, context)[0]
    assert torch.equal(quiet.weight, expected.weight)
    assert not torch.equal(noisy.weight, expected.weight)


def test_jitter_stays_within_epsilon_and_dropout_keeps_the_mean():
    from turnout.moe.routers.exploration import InputDropoutPolicy, InputJitterPolicy

    noise = token_noise(RoutingContext.of(full_mask(1, 4000)), 0)
    ones = torch.ones(4000, 5)
    jittered = InputJitterPolicy(0.1).perturb_input(ones, noise)
    assert jittered.min() >= 0.9 - 1e-6 and jittered.max() <= 1.1 + 1e-6
    assert jittered.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.05)  # of U[.9, 1.1]
    dropped = InputDropoutPolicy(0.25).perturb_input(ones, noise)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)


def test_smooth_load_by_hand():
    # Clean = noisy = 3, 2, 0 with scale 1, k = 1. Expert 0 is chosen: its rival is the second
    # value, Phi(3 - 2); the others' rival is the first: Phi(2 - 3), Phi(0 - 3).
    clean = torch.tensor([[3.0, 2.0, 0.0]])
    found = smooth_load(clean, clean, torch.ones(1, 3), 1)[0].tolist()
    assert found == pytest.approx([0.841345, 0.158655, 0.001350], abs=1e-5)


def test_smooth_load_is_the_probability_of_being_chosen():
    generator = torch.Generator().manual_seed(0)
    clean = torch.tensor([[0.4, 0.1, -0.2, 0.0]])
    scale = torch.tensor([[0.5, 1.0, 0.7, 0.3]])
    noisy = clean + scale * torch.randn(1, 4, generator=generator)
    load = smooth_load(clean, noisy, scale, 2)
    # Redraw one expert's own noise, the others' fixed, and count how often it is in the top 2.
    for expert in range(4):
        draws = noisy.repeat(40_000, 1)
        own = torch.randn(40_000, generator=generator)
        draws[:, expert] = clean[0, expert] + scale[0, expert] * own
        chosen = (best(draws, 2) == expert).any(1).float().mean()
        assert abs(float(chosen) - float(load[0, expert])) < 0.012


def test_load_with_every_expert_chosen_is_one():
    clean = torch.zeros(2, 3)
    assert torch.equal(smooth_load(clean, clean, clean + 1, 3), torch.ones(2, 3))


def test_noisy_top_k_starts_at_zero_and_breaks_ties_by_noise():
    router = router_for(NoisyTopKRouter(2), num_experts=4, d_model=6).train()
    assert all(not bool(weight.any()) for weight in router.parameters())
    assignment, stats = router(hidden(4, 64, 6), RoutingContext.of(full_mask(4, 64)))
    # 128 tokens an expert expected, standard deviation sqrt(256 * 1/2 * 1/2) = 8
    assert (stats.assigned.sum(0) - 128).abs().max() < 5 * 8
    router.eval()
    assignment, _ = router(hidden(1, 8, 6), RoutingContext.of(full_mask(1, 8)))
    assert assignment.expert.tolist() == [0, 1] * 8


@pytest.mark.parametrize("name", ROUTERS)
def test_padding_adds_nothing_to_any_sum(name):
    layer = small_layer(ROUTERS[name]).train()
    x, context = hidden(3, 8), ragged_context(3, 8)
    changed = torch.where(context.mask.unsqueeze(-1), x, torch.nan)
    plain, poisoned = layer.router(x, context), layer.router(changed, context)
    for field in ("tokens", "assigned", "probability", "weight", "load", "z", "entropy"):
        assert torch.equal(getattr(plain[1], field), getattr(poisoned[1], field)), field
    assert torch.equal(plain[0].live, poisoned[0].live)
    assert plain[1].tokens.tolist() == [8, 5, 2]


@pytest.mark.parametrize("name", ROUTERS)
def test_routing_is_float32_under_autocast_and_for_bfloat16_input(name):
    layer = small_layer(ROUTERS[name]).train()
    x, context = hidden(2, 8, dtype=torch.bfloat16), ragged_context(2, 8)
    expected, _ = layer.router(x.float(), context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, stats = layer.router(x, context)
    assert found.weight.dtype == stats.z.dtype == torch.float32
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.expert, expected.expert)


def test_more_choices_than_experts_is_refused():
    with pytest.raises(ConfigError, match=r"moe.num_experts = 4: must be at least 5"):
        MoEConfig(num_experts=4, router=TopKRouter(5))


def test_an_unregistered_router_is_named():
    with pytest.raises(TypeError, match="no router is registered for int"):
        build_router(3, RouterShape(2, 2))


def test_stats_add_over_rows():
    layer = small_layer(TopKRouter(2)).eval()
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    both = layer.router(x, context)[1]
    alone = [
        layer.router(x[i : i + 1], replace(RoutingContext.of(full_mask(1, 8))))[1] for i in (0, 1)
    ]
    assert torch.equal(both.assigned, torch.cat([part.assigned for part in alone]))
    assert torch.allclose(both.probability, torch.cat([part.probability for part in alone]))


def test_the_router_starts_from_the_switch_initialisation():
    # s = .1 over a fan-in of 1,024: std .00988
    router = build_router(SwitchRouter(), RouterShape(1024, 64))
    router.init_weights(torch.Generator().manual_seed(0))
    assert float(router.weight.detach().std()) == pytest.approx(math.sqrt(0.1 / 1024), rel=0.01)


def test_temperature_sharpens_the_draw():
    # at temperature 1/2 the odds .5 : .3 : .2 are squared: .25, .09, .04 over .38
    tokens = 6000
    config = SwitchRouter(SampledSoftmax(temperature=0.5))
    assignment, _ = route_logits(config, LOG * tokens, training=True)
    share = torch.bincount(assignment.expert, minlength=3) / tokens
    for found, square in zip(share.tolist(), (0.25, 0.09, 0.04), strict=True):
        expected = square / 0.38
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / tokens)


def test_noise_starts_with_the_published_scale():
    # zero weights: logits are noise times softplus(0) + .01 = ln 2 + .01
    router = router_for(NoisyTopKRouter(2), num_experts=4, d_model=6).train()
    _, stats = router(hidden(8, 500, 6), RoutingContext.of(full_mask(8, 500)))
    logits_from = token_noise(RoutingContext.of(full_mask(8, 500)), 0).normal(Stream.LOGITS, 4)
    expected = torch.logsumexp(logits_from * (math.log(2) + 0.01), dim=1).square().sum()
    assert float(stats.z.detach().sum()) == pytest.approx(float(expected), rel=1e-5)


# Reward trains `reinforce`: tests/objectives/test_router_terms.py. Fixed routers learn nothing.
WEIGHTED = [n for n, router in ROUTERS.items() if n != "reinforce" and router.num_params(8, 4)]


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_output_alone_trains_every_router(name):
    """Whatever the auxiliary losses, the combine weights carry a gradient."""
    layer = small_layer(ROUTERS[name]).train()
    y, _, _ = layer(hidden(2, 16), told(RoutingContext.of(full_mask(2, 16))))
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    for grad in torch.autograd.grad((y * upstream).sum(), list(layer.router.parameters())):
        assert float(grad.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_has_the_parameters_its_configuration_says(name):
    router = small_layer(ROUTERS[name], num_experts=8, d_model=6).router
    assert sum(p.numel() for p in router.parameters()) == ROUTERS[name].num_params(6, 8)


@pytest.mark.parametrize(
    "build",
    [
        lambda: TopKRouter(1),
        lambda: TopKRouter(1, "softmax_of_selected"),
        lambda: NoisyTopKRouter(1),
        lambda: MoEConfig(4, SwitchRouter(), weights_after_drops=True),
    ],
)
def test_a_weight_that_is_always_one_is_refused(build):
    with pytest.raises(ConfigError, match="must be"):
        build()


def test_a_lone_layer_draws_new_noise_each_step():
    layer = small_layer(ROUTERS["switch_jitter"]).train()
    x, mask = hidden(1, 16), full_mask(1, 16)
    draws = [layer(x, RoutingContext.of(mask, step))[2].weight for step in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


# One product serves a whole group of `sentence`.
@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "sentence"])
def test_every_router_multiplies_as_much_as_its_configuration_says(name):
    router = small_layer(ROUTERS[name], num_experts=8, d_model=6).router.train()
    context = ragged_context(2, 8)
    with FlopCounterMode(display=False) as counter:
        router(hidden(2, 8, 6), context)
    assert counter.get_total_flops() == 16 * router_flops(ROUTERS[name], 6, 8)
