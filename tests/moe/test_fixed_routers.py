"""Routers that learn nothing: what they choose, by hand and by distribution."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.moe.cases import ROUTERS, full_mask, hidden, ragged_context, small_layer, told
from turnout.config.errors import ConfigError, UserError
from turnout.config.routers import ForcedRouter, HashRouter, LabelRouter, ThorRouter
from turnout.data import keys
from turnout.moe import LayerDecision, RouterShape, RoutingContext, build_router
from turnout.moe.hash_tables import random


def router_for(config, num_experts=4, layer=0, vocab_size=5):
    router = build_router(config, RouterShape(3, num_experts, layer, vocab_size=vocab_size))
    router.init_weights()
    return router


def of_ids(ids, mask=None, **fields):
    table = torch.tensor(ids)
    mask = torch.ones_like(table, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return RoutingContext.build(mask, token_ids=table, **fields)


def routed(router, context, training=True):
    return router.train(training)(hidden(*context.mask.shape, 3), context)


def test_hash_looks_experts_up_by_id():
    router = router_for(HashRouter())
    router.set_table(torch.tensor([2, 0, 1, 3, 2]))
    assignment, stats = routed(router, of_ids([[0, 1, 2, 3, 4, 0]]))
    assert assignment.expert.tolist() == [2, 0, 1, 3, 2, 2]
    assert assignment.weight.tolist() == [1.0] * 6
    assert assignment.log_probability.tolist() == [0.0] * 6
    assert stats.assigned.tolist() == [[1, 1, 3, 1]]
    # a certain decision: probabilities are the counts, the entropy is 0, and there are no logits
    assert stats.probability.tolist() == stats.weight.tolist() == [[1.0, 1.0, 3.0, 1.0]]
    assert stats.entropy.tolist() == stats.z.tolist() == [0.0]
    assert stats.top_probability.tolist() == [6.0]


@pytest.mark.parametrize("junk", [-1, 10**9])
def test_ids_of_padding_are_never_looked_up(junk):
    router = router_for(HashRouter())
    context = of_ids([[3, junk], [junk, 1]], [[True, False], [False, True]])
    assignment, stats = routed(router, context)
    assert assignment.live.tolist() == [True, False, False, True]
    assert int(stats.assigned.sum()) == 2


def test_hash_starts_from_its_random_table():
    router = router_for(HashRouter(seed=3), num_experts=8, layer=2, vocab_size=100)
    assert router.table.dtype == torch.int64
    assert torch.equal(router.table, random(100, 8, 3, 2))


def test_a_bigram_looks_up_both_ids():
    router = router_for(HashRouter("bigram", seed=4, buckets=64), num_experts=8, vocab_size=1000)
    ids, before = np.array([[5, 6, 5, 5]]), np.array([[-1, 5, 6, 5]])
    context = of_ids(ids, previous_ids=torch.tensor(before))
    expected = router.table.numpy()[keys.mix(ids, before, 4) % 64]
    found = routed(router, context)[0].expert
    assert found.tolist() == expected.flatten().tolist()
    assert len({int(found[0]), int(found[2]), int(found[3])}) > 1  # the same id, other neighbours


def test_a_table_travels_with_the_weights():
    config = HashRouter(seed=1)
    one, other = router_for(config), router_for(replace(config, seed=2))
    one.set_table(torch.tensor([3, 3, 0, 0, 1]))
    other.load_state_dict(one.state_dict())
    assert other.table.tolist() == [3, 3, 0, 0, 1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            torch.zeros(7, dtype=torch.int64),
            "a hash table of 7 entries is of another vocabulary: the router has 5 ids of its "
            "vocabulary",
        ),
        (
            torch.tensor([0, 1, 4, 0, 0]),
            "a hash table names expert 4: the layer has experts 0 to 3",
        ),
        (
            torch.tensor([0, -2, 3, 0, 0]),
            "a hash table names expert -2: the layer has experts 0 to 3",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message):
    with pytest.raises(UserError) as refused:
        router_for(HashRouter()).set_table(table)
    assert str(refused.value) == message


def test_a_bigram_table_counts_buckets():
    router = router_for(HashRouter("bigram", buckets=8))
    with pytest.raises(UserError, match=r"5 entries .* has 8 buckets of pairs of ids"):
        router.set_table(torch.zeros(5, dtype=torch.int64))
    assert len(router_for(HashRouter("bigram")).table) == 65_536


def test_hash_says_what_it_needs():
    x, context = hidden(1, 2, 3), RoutingContext.of(full_mask(1, 2))
    with pytest.raises(UserError, match=r"'hash': reads token_ids, .*\(mask, token_ids=..\)"):
        router_for(HashRouter())(x, context)
    with pytest.raises(UserError, match=r"'hash': reads previous_ids, "):
        router_for(HashRouter("bigram", buckets=4))(x, of_ids([[1, 2]]))
    with pytest.raises(ConfigError, match=r"vocab_size = None: must be given for a router of kind"):
        build_router(HashRouter(), RouterShape(3, 4))


def test_a_row_goes_to_the_expert_of_its_label():
    context = RoutingContext.build(full_mask(3, 2), labels=torch.tensor([2, 0, 2]))
    assignment, stats = routed(router_for(LabelRouter(3)), context)
    assert assignment.expert.tolist() == [2, 2, 0, 0, 2, 2]
    assert assignment.weight.tolist() == [1.0] * 6
    assert stats.assigned.tolist() == [[0, 0, 2, 0], [2, 0, 0, 0], [0, 0, 2, 0]]


def test_labels_must_be_there_and_known():
    router, x = router_for(LabelRouter(3)), hidden(2, 2, 3)
    with pytest.raises(UserError, match=r"'label': reads a label .* data.mixture"):
        router(x, RoutingContext.of(full_mask(2, 2)))
    for label, named in ((3, "3"), (-1, "-1")):
        context = RoutingContext.build(full_mask(2, 2), labels=torch.tensor([1, label]))
        with pytest.raises(UserError, match=f"a row has label {named}, .* labels 0 to 2"):
            router(x, context)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("training", [True, False])
def test_thor_draws_evenly_without_replacement(k, training):
    tokens = 6000
    assignment, stats = routed(
        router_for(ThorRouter(k), layer=3), RoutingContext.of(full_mask(1, tokens)), training
    )
    expert = assignment.expert.view(tokens, k)
    assert all(len(set(row)) == k for row in expert.tolist())
    assert torch.equal(assignment.weight, torch.full((tokens * k,), 1 / k))
    for column in expert.unbind(1):
        share = torch.bincount(column, minlength=4) / tokens
        assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / tokens)
    # the chance of every expert is the same, whichever was drawn
    assert stats.probability[0].tolist() == pytest.approx([tokens / 4] * 4, rel=1e-4)
    assert stats.entropy.item() == pytest.approx(tokens * math.log(4), rel=1e-4)
    assert stats.z.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("config", [ThorRouter(), ForcedRouter("zipf")])
def test_draws_of_training_follow_keys_and_those_of_evaluation_position(config):
    def experts(key, training, layer=0, length=64):
        context = RoutingContext.build(full_mask(1, length), keys=torch.tensor([key]))
        return routed(router_for(config, 8, layer), context, training)[0].expert

    assert torch.equal(experts(1, True), experts(1, True))
    assert not torch.equal(experts(1, True), experts(2, True))
    assert torch.equal(experts(1, False), experts(2, False))
    assert not torch.equal(experts(1, False), experts(1, False, layer=1))
    assert torch.equal(experts(1, False)[:9], experts(1, False, length=9))
    assert experts(1, False).unique().numel() > 1


@pytest.mark.parametrize("config", [ThorRouter(2), ForcedRouter("zipf", k=2), ForcedRouter(k=2)])
@pytest.mark.parametrize("training", [True, False])
def test_padding_on_the_left_moves_no_draw(config, training):
    mask = torch.tensor([[False, False, True, True, True, True]])
    row = torch.tensor([5])
    padded, plain = (
        routed(router_for(config), RoutingContext.build(m, keys=row), training)[0].expert.view(
            -1, 2
        )
        for m in (mask, full_mask(1, 4))
    )
    assert torch.equal(padded[2:], plain)


def test_forced_experts_take_turns():
    # token p takes experts 2p and 2p + 1, modulo 5
    router = router_for(ForcedRouter(k=2), num_experts=5)
    assignment, _ = routed(router, RoutingContext.of(full_mask(1, 4)))
    assert assignment.expert.view(4, 2).tolist() == [[0, 1], [2, 3], [4, 0], [1, 2]]
    assert assignment.weight.tolist() == [0.5] * 8


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (3, 2), (4, 4), (7, 3)])
def test_forced_loads_of_a_row_differ_by_one_at_most(experts, k):
    context = ragged_context(4, 13, 4)  # 13, 9, 5 and 1 tokens
    _, stats = routed(router_for(ForcedRouter(k=k), experts), context)
    assert stats.assigned.sum(1).tolist() == [13 * k, 9 * k, 5 * k, k]
    assert ((stats.assigned.amax(1) - stats.assigned.amin(1)) <= 1).all()


@pytest.mark.parametrize("training", [True, False])
def test_forced_loads_follow_zipfs_law(training):
    # 1, 1/2, 1/3, 1/4 over 25/12: .48, .24, .16, .12
    tokens, law = 8000, (0.48, 0.24, 0.16, 0.12)
    _, stats = routed(
        router_for(ForcedRouter("zipf")), RoutingContext.of(full_mask(1, tokens)), training
    )
    for found, expected in zip((stats.assigned[0] / tokens).tolist(), law, strict=True):
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / tokens)
    assert (stats.probability[0] / tokens).tolist() == pytest.approx(law, rel=1e-4)


def test_forced_draws_are_without_replacement_and_an_exponent_of_zero_is_even():
    context = RoutingContext.of(full_mask(1, 4000))
    expert = routed(router_for(ForcedRouter("zipf", k=3)), context)[0].expert.view(-1, 3)
    assert all(len(set(row)) == 3 for row in expert.tolist())
    _, stats = routed(router_for(ForcedRouter("zipf", exponent=0.0)), context)
    assert (stats.assigned - 1000).abs().max() < 4 * math.sqrt(4000 * 0.25 * 0.75)


FIXED = {
    "hash": HashRouter(),
    "label": LabelRouter(2),
    "thor": ThorRouter(2),
    "round robin": ForcedRouter(k=2),
    "zipf": ForcedRouter("zipf", k=2),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FIXED)
def test_probabilities_of_a_token_add_up_to_one(name, training):
    context = ragged_context(2, 8)
    router = router_for(FIXED[name], vocab_size=40)
    assignment, stats = routed(router, context, training)
    assert stats.probability.sum(1).tolist() == pytest.approx([8.0, 5.0])
    assert stats.weight.sum(1).tolist() == pytest.approx([8.0, 5.0])
    assert torch.isfinite(stats.entropy).all() and torch.isfinite(assignment.log_probability).all()


@pytest.mark.parametrize("experts", [2, 3])
@pytest.mark.parametrize("name", FIXED)
def test_one_token_and_few_experts(name, experts):
    context = told(RoutingContext.of(torch.tensor([[True, False]])))
    router = router_for(FIXED[name], experts, vocab_size=40)
    assignment, stats = routed(router, context)
    assert int(stats.assigned.sum()) == router.choices
    assert int(stats.assigned.max()) == 1
    assert assignment.weight.sum().item() == pytest.approx(1.0)


def record(layer, x, context):
    """What the layer decided, and the same with every second token's experts moved on by one."""
    expert = layer(x, context)[2].expert
    moved = (torch.arange(8).view(1, 8, 1) % 2 == 1) & (expert >= 0)
    return expert, torch.where(moved, (expert + 1) % 4, expert)


@pytest.mark.parametrize("name", ["hash_bigram", "label", "thor_2", "forced_zipf"])
def test_a_record_replays_over_every_fixed_choice(name):
    layer, x = small_layer(ROUTERS[name]).train(), hidden(2, 8)
    context = ragged_context(2, 8)
    expert, other = record(layer, x, context)
    for given in (expert, other):
        elsewhere = replace(context, keys=context.keys + 1, chosen=LayerDecision.of(given))
        y, _, decision = layer(x, elsewhere)
        assert torch.equal(decision.expert, given)
        assert torch.isfinite(y).all()
    assert torch.equal(
        layer(x, replace(context, chosen=LayerDecision.of(expert)))[0], layer(x, context)[0]
    )
    with pytest.raises(UserError, match="choices for each of"):
        layer(x, replace(context, chosen=LayerDecision.of(expert.repeat(1, 1, 2))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: HashRouter("random", buckets=8),
            "router.buckets = 8: must be none unless router.table is 'bigram'; the other tables "
            "have an entry for each id of the vocabulary",
        ),
        (lambda: HashRouter("bigram", buckets=0), "router.buckets = 0: must be at least 1"),
        (lambda: HashRouter(seed=-1), "router.seed = -1: must be in 0 .. 2^63 - 1"),
        (lambda: LabelRouter(0), "router.labels = 0: must be at least 1"),
        (
            lambda: LabelRouter(5).check(4),
            "moe.num_experts = 4: must be at least 5, the labels of the router (label); each "
            "label has an expert of its own",
        ),
        (lambda: ThorRouter(0), "router.k = 0: must be at least 1"),
        (lambda: ForcedRouter("zipf", -1.0), "router.exponent = -1.0: must be in 0 .. 100"),
        (
            lambda: ForcedRouter(exponent=2.0),
            "router.exponent = 2.0: must be left out where router.load is 'uniform'; it is the "
            "exponent of router.load = 'zipf'",
        ),
    ],
)
def test_configurations_refuse(build, message):
    with pytest.raises(ConfigError) as refused:
        build()
    assert str(refused.value) == message
