"""What a layer derives, declares and refuses."""

from dataclasses import replace

import pytest
import torch

from tests.moe.cases import ROUTERS, full_mask, hidden, ragged_context, small_layer, told
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import DocumentGroup, MoEConfig, RowsGroup
from turnout.config.routers import (
    BaseRouter,
    NoTokenLeftBehindRouter,
    SinkhornRouter,
    SwitchRouter,
    TopKRouter,
)
from turnout.moe import RoutingContext, build_layer
from turnout.moe.dispatch import EinsumDispatcher
from turnout.moe.stats import LayerDecision

# priority, choices, training factor, evaluation factor -> causal. Dropless layers never drop, so
# order does not matter; with a capacity only token order serves tokens in time, except that with
# one choice a token, choice order is token order.
CAUSAL = [
    ("token", 1, 1.0, None, True),
    ("token", 2, 1.0, 1.0, True),
    ("choice", 1, 1.0, None, True),
    ("choice", 2, 1.0, None, False),
    ("choice", 2, None, None, True),
    ("choice", 2, None, 1.0, False),
    ("score", 1, 1.0, None, False),
    ("score", 1, None, None, True),
    ("random", 1, 1.0, None, False),
    ("random", 2, None, None, True),
]


@pytest.mark.parametrize(("priority", "k", "train", "evaluation", "causal"), CAUSAL)
def test_causal_is_derived(priority, k, train, evaluation, causal):
    layer = small_layer(
        TopKRouter(k, "raw"),
        priority=priority,
        train_capacity_factor=train,
        eval_capacity_factor=evaluation,
    )
    assert layer.causal is causal


# group, evaluation factor -> batch-invariant: only slots shared by rows couple them.
BATCH_INVARIANT = [
    (RowsGroup(1), 1.0, True),
    (RowsGroup(2), None, True),
    (RowsGroup(2), 1.0, False),
    (DocumentGroup(), 1.0, True),
]


@pytest.mark.parametrize(("group", "evaluation", "invariant"), BATCH_INVARIANT)
def test_batch_invariance_is_derived(group, evaluation, invariant):
    layer = small_layer(group=group, eval_capacity_factor=evaluation)
    assert layer.batch_invariant is invariant


@pytest.mark.parametrize("priority", ["choice", "score", "random"])
def test_a_decoder_refuses_routing_that_reads_the_future(priority):
    config = MoEConfig(num_experts=4, router=TopKRouter(2), priority=priority)
    shape = {"d_model": 8, "feed_forward": FeedForwardConfig(8), "group_tokens": 8}
    with pytest.raises(ConfigError, match=r"moe.priority = .*moe.allow_future_routing = true"):
        build_layer(config, decoder=True, **shape)
    assert not build_layer(config, decoder=False, **shape).causal
    forced = MoEConfig(
        num_experts=4, router=TopKRouter(2), priority=priority, allow_future_routing=True
    )
    assert not build_layer(forced, decoder=True, **shape).causal


@pytest.mark.parametrize("name", ["expert_choice", "expert_choice_capped", "base", "sinkhorn"])
def test_a_decoder_refuses_a_router_that_decides_over_a_whole_group(name):
    router = ROUTERS[name]
    config = MoEConfig(4, router, train_capacity_factor=None)
    shape = {"d_model": 8, "feed_forward": FeedForwardConfig(8), "group_tokens": 8}
    with pytest.raises(ConfigError) as error:
        build_layer(config, decoder=True, **shape)
    assert str(error.value) == (
        f"moe.router.kind = {router.kind!r}: must be a router whose choice for a token does not "
        "depend on later ones, in a decoder; take it in an encoder, with another "
        "moe.decoder_router, or allow the leak in so many words with "
        "moe.allow_future_routing = true"
    )
    assert not build_layer(config, decoder=False, **shape).causal
    forced = replace(config, allow_future_routing=True)
    assert not build_layer(forced, decoder=True, **shape).causal


def test_capacity_needs_the_configured_tokens():
    config = MoEConfig(num_experts=4)
    with pytest.raises(ConfigError, match="group_tokens = None"):
        build_layer(config, d_model=8, feed_forward=FeedForwardConfig(8))


def test_capacities_of_training_and_evaluation_are_apart():
    layer = small_layer(
        SwitchRouter(),
        group_tokens=16,
        train_capacity_factor=0.5,
        eval_capacity_factor=2.0,
    )
    assert (layer.capacity.train, layer.capacity.evaluation) == (2, 8)  # f * 16 / 4
    with torch.no_grad():
        layer.router.weight.zero_()  # a tie: all tokens to expert 0
    context = RoutingContext.of(full_mask(1, 16))
    kept = [int(layer.train(mode)(hidden(1, 16), context)[1].kept.sum()) for mode in (True, False)]
    assert kept == [2, 8]


def test_dropped_tokens_and_padding_get_zero():
    layer = small_layer(SwitchRouter(), group_tokens=4, train_capacity_factor=1.0).train()
    with torch.no_grad():
        layer.router.weight.zero_()
    mask = torch.tensor([[True, True, True, False]])
    y, stats, decision = layer(hidden(1, 4), RoutingContext.of(mask))
    assert layer.capacity.train == 1
    assert bool(y[0, 0].any()) and not bool(y[0, 1:].any())
    assert stats.unrouted.tolist() == [2] and stats.router.tokens.tolist() == [3]
    assert decision.expert.flatten().tolist() == [0, -1, -1, -1]


def test_slots_of_a_pass_go_to_padding_too_and_to_generation():
    """One expert liked by all, two slots a row: padding on the left takes one of them."""
    layer = small_layer(SwitchRouter(), group_tokens=8, train_capacity_factor=2.0, eval_slots=2)
    with torch.no_grad():
        layer.router.weight.zero_()
    mask = torch.tensor([[False, True, True, True], [True, True, True, True]])
    for context in (RoutingContext.of(mask), replace(RoutingContext.of(mask), dropless=True)):
        y, stats, decision = layer.eval()(hidden(2, 4), context)
        assert decision.expert.flatten(1).tolist() == [[0, 0, -1, -1], [0, 0, -1, -1]]
        assert [bool(row.any()) for row in y[0]] == [True, True, False, False]
        assert stats.router.tokens.tolist() == [4, 4] and stats.unrouted.tolist() == [2, 2]
    # Training goes by its own factor (2 * 8 / 4 slots), and padding takes part in nothing.
    _, stats, decision = layer.train()(hidden(2, 4), RoutingContext.of(mask))
    assert layer.capacity.slots(True, False) == 4
    assert decision.expert.flatten(1).tolist() == [[-1, 0, 0, 0], [0, 0, 0, 0]]
    assert stats.router.tokens.tolist() == [3, 4]
    assert layer.causal and not layer.batch_invariant
    assert not small_layer(TopKRouter(2), priority="choice", eval_slots=2).causal


def test_no_token_left_behind_serves_by_the_next_best():
    layer = small_layer(
        NoTokenLeftBehindRouter(3), group_tokens=4, train_capacity_factor=1.0, num_experts=4
    ).train()
    with torch.no_grad():
        layer.router.weight.zero_()
    _, stats, decision = layer(hidden(1, 4), RoutingContext.of(full_mask(1, 4)))
    # one slot each, candidates 0 1 2 of every token: the fourth finds none
    assert decision.expert[0].tolist() == [[0, -1, -1], [-1, 1, -1], [-1, -1, 2], [-1, -1, -1]]
    assert stats.unrouted.tolist() == [1]


@pytest.mark.parametrize("name", ROUTERS)
def test_evaluation_is_dropless_noiseless_and_batch_invariant(name):
    layer = small_layer(ROUTERS[name], train_capacity_factor=0.5).eval()
    x = hidden(3, 8)
    context = told(RoutingContext.build(full_mask(3, 8), keys=torch.tensor([1, 2, 3])))
    y, stats, _ = layer(x, context)
    if layer.router.couples_in_evaluation == "none" or name == "sentence":
        assert int(stats.unrouted.sum()) == 0
    else:  # where experts choose, a token may have none, and what they choose is theirs
        assert torch.equal(stats.kept, stats.router.assigned)
    other_keys = told(RoutingContext.build(full_mask(3, 8), keys=torch.tensor([7, 8, 9])))
    assert torch.equal(layer(x, other_keys)[0], y)
    alone = layer(x[1:2], told(RoutingContext.of(full_mask(1, 8)), first=1))[0]
    assert torch.allclose(alone[0], y[1], atol=1e-5)


def test_shared_experts_serve_every_token():
    layer = small_layer(SwitchRouter(), shared_experts=2).eval()
    x, context = hidden(2, 4), RoutingContext.of(full_mask(2, 4))
    routed = small_layer(SwitchRouter()).eval()
    routed.load_state_dict(layer.state_dict(), strict=False)
    assert layer.shared.w_in.shape == (2 * 16, 8)
    expected = routed(x, context)[0] + layer.shared(x)
    assert torch.allclose(layer(x, context)[0], expected, atol=1e-6)


def test_statistics_add_over_micro_batches():
    layer = small_layer(TopKRouter(2), train_capacity_factor=0.5).train()
    x, context = hidden(4, 8), ragged_context(4, 8, 1)
    whole = layer(x, context)[1]
    parts = [
        layer(
            x[i : i + 2],
            RoutingContext.build(context.mask[i : i + 2], keys=context.keys[i : i + 2]),
        )[1]
        for i in (0, 2)
    ]
    for field in ("kept", "unrouted"):
        both = torch.cat([getattr(part, field) for part in parts])
        assert torch.equal(getattr(whole, field), both)


def test_another_dispatcher_shares_the_parameters():
    layer = small_layer().train()
    other = layer.with_dispatcher(EinsumDispatcher())
    assert other.training and other is not layer
    assert [id(p) for p in other.parameters()] == [id(p) for p in layer.parameters()]


def test_equal_experts_with_normalised_weights_are_the_dense_network():
    # the upcycling identity: sum of weights is 1, so every token gets the common output
    from tests.moe.test_experts import twins

    layer = small_layer(TopKRouter(2, "renormalised")).eval()
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    dense = twins(layer.experts.config, layer.experts)[0]
    x = hidden(2, 6)
    assert torch.allclose(layer(x, RoutingContext.of(full_mask(2, 6)))[0], dense(x), atol=1e-5)


def test_evaluation_serves_in_token_order_where_training_draws():
    layer = small_layer(eval_capacity_factor=0.5, priority="random").eval()
    x = hidden(2, 8)
    one, two = (
        layer(x, RoutingContext.build(full_mask(2, 8), keys=torch.tensor(keys)))
        for keys in ([1, 2], [8, 9])
    )
    assert int(one[1].unrouted.sum()) > 0 and torch.equal(one[0], two[0])


def test_segments_beyond_the_bound_stay_in_their_row():
    segment = torch.tensor([[1, 2, 3, 3], [1, 1, 1, 1]])
    context = RoutingContext.documents(segment > 0, segment, 2)
    assert context.group.tolist() == [[0, 1, 1, 1], [2, 2, 2, 2]]


def test_a_group_without_tokens_is_refused():
    shape = {"d_model": 8, "feed_forward": FeedForwardConfig(8)}
    with pytest.raises(ConfigError, match="group_tokens = 0: must be at least 1"):
        build_layer(MoEConfig(4), group_tokens=0, **shape)


@pytest.mark.parametrize("router", [BaseRouter(), SinkhornRouter()], ids=lambda router: router.kind)
def test_assignment_of_a_whole_group_is_replayed_and_refuses_a_part(router):
    layer = small_layer(router).train()
    x, context = hidden(3, 8), ragged_context(3, 8)
    y, _, decision = layer(x, context)
    other = torch.where(decision.expert >= 0, (decision.expert + 1) % 4, -1)
    for experts in (decision.expert, other):
        replayed = layer(x, replace(context, replay={"moe": LayerDecision.of(experts)}))
        assert torch.equal(replayed[2].expert, experts)
    assert torch.equal(
        layer(x, replace(context, replay={"moe": LayerDecision.of(decision.expert)}))[0], y
    )
    partial = replace(context, partial=True)
    with pytest.raises(UserError, match=rf"moe.router.kind = '{router.kind}': .* in parts"):
        layer(x, partial)
    layer.eval()(x, partial)  # each token by itself
