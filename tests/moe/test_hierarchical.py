"""Two levels of gating: weights, probabilities and loads by hand and by a loop over tokens."""

import math
from dataclasses import replace

import pytest
import torch

from tests.moe.cases import ROUTERS, full_mask, hidden, ragged_context, small_layer
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import HierarchicalRouter
from turnout.config.routers.base import router_flops
from turnout.moe import LayerDecision, RouterShape, RoutingContext, build_router
from turnout.moe.losses import squared_variation
from turnout.moe.noise import Stream, token_noise
from turnout.moe.routers.noisy_top_k import smooth_load
from turnout.nn.init import truncated_normal_


def router_for(config, num_experts=9, d_model=4, decided=True):
    router = build_router(config, RouterShape(d_model, num_experts))
    router.init_weights(torch.Generator().manual_seed(0))
    if decided:
        for number, weight in enumerate(router.parameters()):
            truncated_normal_(weight.detach(), 0.7, torch.Generator().manual_seed(number))
    return router


def test_weights_and_probabilities_by_hand():
    # Identity weights of three groups of three experts: the first 3 entries of x are the primary
    # logits, the others the secondary ones.
    router = router_for(HierarchicalRouter(3, noisy=False), d_model=12)
    with torch.no_grad():
        router.primary.weight.copy_(torch.eye(12)[:3])
        router.secondary.weight.copy_(torch.eye(12)[3:])
    logs = [math.log(value) for value in (6.0, 1.0, 3.0, 1, 2, 7, 1, 1, 1, 5, 1, 4)]
    assignment, stats = router(torch.tensor([[logs]]), RoutingContext.of(full_mask(1, 1)))
    # Groups 0 (6) and 2 (3): 2/3 and 1/3. In group 0 experts 2 and 1: 7/9, 2/9; in group 2
    # experts 6 and 8: 5/9, 4/9.
    assert assignment.expert.tolist() == [2, 1, 6, 8]
    assert assignment.weight.tolist() == pytest.approx([14 / 27, 4 / 27, 5 / 27, 4 / 27])
    # Over all: groups 6, 1, 3 of 10; experts 1, 2, 7 of 10; 1, 1, 1 of 3; 5, 1, 4 of 10.
    expected = [0.06, 0.12, 0.42, 1 / 30, 1 / 30, 1 / 30, 0.15, 0.03, 0.12]
    assert stats.probability[0].tolist() == pytest.approx(expected)
    assert assignment.log_probability.tolist() == pytest.approx(
        [math.log(expected[e]) for e in (2, 1, 6, 8)]
    )
    # importance: the weights; z: ln(10)^2 and the mean of ln(10)^2, ln(3)^2, ln(10)^2
    assert stats.weight[0].tolist() == pytest.approx(
        [0, 4 / 27, 14 / 27, 0, 0, 0, 5 / 27, 0, 4 / 27]
    )
    ten, three = math.log(10) ** 2, math.log(3) ** 2
    assert stats.z.item() == pytest.approx(ten + (2 * ten + three) / 3)


def test_ties_go_to_the_lowest_group_and_expert():
    router = router_for(HierarchicalRouter(3), decided=False).eval()
    assignment, stats = router(hidden(1, 4, 4), RoutingContext.of(full_mask(1, 4)))
    assert assignment.expert.view(4, 4).tolist() == [[0, 1, 3, 4]] * 4
    assert assignment.weight.tolist() == pytest.approx([0.25] * 16)
    # without noise the load is the count
    assert stats.load.tolist() == stats.assigned.tolist()


def test_it_starts_at_zero_with_noise_of_the_published_scale():
    router = router_for(HierarchicalRouter(4), num_experts=12, decided=False).train()
    assert all(not bool(weight.any()) for weight in router.parameters())
    context = RoutingContext.of(full_mask(4, 100))
    assignment, stats = router(hidden(4, 100, 4), context)
    noise, scale = token_noise(context, 0), math.log(2) + 0.01
    outer = noise.normal(Stream.LOGITS, 4) * scale
    inner = noise.normal(Stream.SECONDARY_LOGITS, 12).view(-1, 4, 3) * scale
    group = outer.argmax(1)
    best = inner[torch.arange(400), group].argmax(1)
    assert torch.equal(assignment.expert.view(400, 4)[:, 0], 3 * group + best)
    # 1,600 assignments over 12 experts: 133 each, deviation at most sqrt(400 * 1/3 * 2/3) = 9.4
    assert (stats.assigned.sum(0) - 400 / 3).abs().max() < 5 * 9.4


def test_without_noise_it_starts_as_other_routers_do():
    router = router_for(HierarchicalRouter(4, noisy=False), num_experts=64, d_model=64)
    router.init_weights(torch.Generator().manual_seed(0))
    assert len(list(router.parameters())) == 2
    std = float(router.secondary.weight.detach().std())
    assert std == pytest.approx(math.sqrt(0.1 / 64), rel=0.05)


def loads_by_loop(router, x, context):
    """Load_H of the paper, routing group by routing group, from the router's own noisy logits."""
    groups, inside = router.primary.weight.shape[0], router.inside
    tokens, noise = x.flatten(0, 1), token_noise(context, router.layer)
    first, second = (
        level(tokens, context.mask.flatten(), noise) for level in (router.primary, router.secondary)
    )
    outer = smooth_load(first.clean, first.noisy, first.scale, router.kept[0])
    chosen = torch.sort(first.noisy, dim=1, descending=True).indices[:, : router.kept[0]].tolist()
    load = torch.zeros(context.num_groups, groups, inside)
    real = [t for t, there in enumerate(context.mask.flatten().tolist()) if there]
    of = context.group.flatten().tolist()
    for number in range(context.num_groups):
        here = [t for t in real if of[t] == number]
        for i in range(groups):
            mine = [t for t in here if i in chosen[t]]
            if not mine:
                continue
            part = slice(i * inside, (i + 1) * inside)
            inner = smooth_load(
                second.clean[mine, part],
                second.noisy[mine, part],
                second.scale[mine, part],
                router.kept[1],
            )
            load[number, i] = outer[here, i].sum() * inner.sum(0) / len(mine)
    return load.flatten(1)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_load_is_the_papers_in_every_routing_group(rows):
    router = router_for(HierarchicalRouter(3)).train()
    x = hidden(4, 8, 4)
    ragged = ragged_context(4, 8)
    context = RoutingContext.build(ragged.mask, keys=ragged.keys, rows=rows)
    _, stats = router(x, context)
    expected = loads_by_loop(router, x, context)
    assert torch.allclose(stats.load, expected, atol=1e-4)
    assert bool((stats.load > 0.01).any())


def test_groups_that_nobody_chose_have_no_load_and_no_nan():
    # All tokens alike and decided: two of four groups of experts get every token, two get none.
    router = router_for(HierarchicalRouter(4), num_experts=12)
    with torch.no_grad():
        for weight in router.parameters():
            weight.zero_()
        router.primary.weight.copy_(torch.tensor([[9.0], [-9.0], [8.0], [-9.0]]).expand(4, 4))
        router.primary.noise_weight.fill_(-9.0)
    x = torch.ones(1, 5, 4).requires_grad_()
    _, stats = router.train()(x, RoutingContext.of(full_mask(1, 5)))
    held = stats.assigned.view(4, 3).sum(1).tolist()
    assert held == [10, 0, 10, 0]
    load = stats.load.view(4, 3)
    assert not bool(load[1].any()) and not bool(load[3].any())
    # Load_prim is 5, and each group's loads add up to about 2 of 3 experts times it
    assert load[0].sum().item() == pytest.approx(10, rel=0.3)
    losses = squared_variation(stats.weight).sum() + squared_variation(stats.load).sum()
    for grad in torch.autograd.grad(losses, [x, *router.parameters()]):
        assert torch.isfinite(grad).all()


def test_sums_add_over_micro_batches():
    router = router_for(HierarchicalRouter(3)).train()
    x, context = hidden(4, 8, 4), ragged_context(4, 8)
    _, whole = router(x, context)
    for start in (0, 2):
        here = slice(start, start + 2)
        part = RoutingContext.build(context.mask[here], keys=context.keys[here])
        _, stats = router(x[here], part)
        assert torch.allclose(stats.load, whole.load[here], atol=1e-5)
        assert torch.equal(stats.assigned, whole.assigned[here])


def test_probabilities_and_weights_of_a_token_add_up_to_one():
    router = router_for(HierarchicalRouter(3)).train()
    assignment, stats = router(hidden(3, 8, 4), ragged_context(3, 8))
    assert stats.probability.sum(1).tolist() == pytest.approx([8.0, 5.0, 2.0])
    assert stats.weight.sum(1).tolist() == pytest.approx([8.0, 5.0, 2.0])
    assert all(len(set(row)) == 4 for row in assignment.expert.view(-1, 4).tolist())


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("experts", [4, 9])
@pytest.mark.parametrize("training", [True, False])
def test_hostile_sizes_and_logits(experts, scale, training):
    groups = 2 if experts == 4 else 3  # of 4 experts a token takes all
    router = router_for(HierarchicalRouter(groups), experts).train(training)
    with torch.no_grad():
        for weight in router.parameters():
            weight.mul_(scale)
    x = hidden(1, 3, 4).requires_grad_()
    context = RoutingContext.of(torch.tensor([[True, False, False]]))
    assignment, stats = router(x, context)
    assert assignment.weight.sum().item() == pytest.approx(1.0)
    total = assignment.weight.square().sum() + stats.z.sum() + stats.entropy.sum()
    total = total + stats.load.square().sum()
    for grad in torch.autograd.grad(
        total, [x, *router.parameters()], allow_unused=True, materialize_grads=True
    ):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_record_replays_with_its_weights(training):
    layer, x = small_layer(HierarchicalRouter(3), num_experts=9).train(training), hidden(2, 8)
    context = ragged_context(2, 8)
    y, _, decision = layer(x, context)
    assert torch.equal(layer(x, replace(context, chosen=decision))[0], y)
    # Another engine's: one group of experts twice, and one choice declined.
    other = torch.tensor([8, 6, 7, -1]).expand(2, 8, 4)
    found, stats, again = layer(x, replace(context, chosen=LayerDecision.of(other)))
    assert set(again.expert[context.mask].flatten().tolist()) == {-1, 6, 7, 8}
    kept = again.weight[context.mask]
    assert torch.allclose(kept.sum(1), torch.ones(len(kept))) and not bool(kept[:, 3].any())
    assert torch.isfinite(found).all() and torch.isfinite(stats.router.load).all()
    none = layer(x, replace(context, chosen=LayerDecision.of(torch.full((2, 8, 4), -1))))
    assert not bool(none[0].any()) and torch.isfinite(none[1].router.load).all()


def test_parameters_and_arithmetic():
    # (3 groups + 9 experts) * 4, twice with noise; two operations each
    assert HierarchicalRouter(3).num_params(4, 9) == 96
    assert HierarchicalRouter(3, noisy=False).num_params(4, 9) == 48
    assert router_flops(HierarchicalRouter(3), 4, 9) == 192
    for noisy in (True, False):
        config = HierarchicalRouter(3, noisy=noisy)
        found = sum(p.numel() for p in router_for(config).parameters())
        assert found == config.num_params(4, 9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: MoEConfig(8, HierarchicalRouter(3)),
            "moe.num_experts = 8: must be a multiple of router.groups (3), at least 6; each group "
            "holds as many experts, and a token takes 2 of a group (router.k_secondary)",
        ),
        (
            lambda: MoEConfig(6, HierarchicalRouter(2, k_secondary=4)),
            "moe.num_experts = 6: must be a multiple of router.groups (2), at least 8; each group "
            "holds as many experts, and a token takes 4 of a group (router.k_secondary)",
        ),
        (
            lambda: HierarchicalRouter(1),
            "router.groups = 1: must be at least router.k_primary (2)",
        ),
        (lambda: HierarchicalRouter(k_primary=1), "router.k_primary = 1: must be at least 2"),
        (lambda: HierarchicalRouter(k_secondary=1), "router.k_secondary = 1: must be at least 2"),
    ],
)
def test_configurations_refuse(build, message):
    with pytest.raises(ConfigError) as refused:
        build()
    assert str(refused.value) == message


def test_the_shared_case_is_of_two_groups():
    assert ROUTERS["hierarchical"] == HierarchicalRouter(2)
