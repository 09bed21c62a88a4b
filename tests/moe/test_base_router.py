"""BASE layers: the assignment against scipy's optimum, its loads, and the router around it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from turnout.config.moe import DocumentGroup, RowsGroup
from turnout.config.routers import BaseRouter
from turnout.moe import RouterShape, RoutingContext, build_router
from turnout.moe import auction as auction_module
from turnout.moe.auction import INCREMENTS, Bids, Market, balanced_assignment
from turnout.moe.chains import even_out


def optimum(scores: np.ndarray) -> float:
    """The largest sum of scores with loads of floor(n / E) or ceil(n / E).

    A square problem: every expert has ceil(n / E) slots, of which one may stay empty: then one of
    E * ceil(n / E) - n dummies has it, which may have no other, at no value.
    """
    tokens, experts = scores.shape
    slots = -(-tokens // experts)
    dummies = experts * slots - tokens
    table = np.repeat(scores, slots, axis=1)
    first = np.arange(experts * slots) % slots == 0
    forbidden = -1e3 * (1 + np.abs(scores).max()) * (tokens + dummies)
    table = np.concatenate([table, np.tile(np.where(first, 0.0, forbidden), (dummies, 1))])
    return float(table[linear_sum_assignment(table, maximize=True)].sum())


def assigned(scores: np.ndarray) -> np.ndarray:
    """One group's assignment; its loads are checked here for all tests."""
    tokens, experts = scores.shape
    context = RoutingContext.of(full_mask(1, tokens))
    expert = balanced_assignment(torch.tensor(scores, dtype=torch.float32), context).numpy()
    loads = np.bincount(expert, minlength=experts)
    assert loads.shape == (experts,) and loads.max() - loads.min() <= 1
    return expert


def value(scores: np.ndarray, expert: np.ndarray) -> float:
    return float(scores[np.arange(len(expert)), expert].sum())


SIZES = [(1024, 16), (300, 16), (512, 2), (7, 16), (256, 64), (333, 8), (64, 8), (1, 3)]
KINDS = ("normal", "leaning", "whole numbers", "heavy tails")


def problem(kind: str, tokens: int, experts: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(tokens, experts))
    if kind == "leaning":  # all tokens like the same experts
        scores += 3 * draw.normal(size=experts)
    if kind == "whole numbers":  # ties everywhere
        scores = draw.integers(0, 4, size=(tokens, experts)).astype(float)
    if kind == "heavy tails":
        scores = np.exp(2 * scores)
    return scores.astype(np.float32).astype(float)


@pytest.mark.parametrize("number", range(20))
def test_the_value_is_the_optimum(number):
    scores = problem(KINDS[(number + number // 8) % 4], *SIZES[number % 8], number)
    best = optimum(scores)
    assert value(scores, assigned(scores)) >= best - 0.005 * abs(best)


@given(
    tokens=st.integers(1, 24),
    experts=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
)
def test_small_groups_are_optimal_within_the_last_increment(tokens, experts, seed, kind):
    scores = problem(kind, tokens, experts, seed)
    spread = float((scores.max(1) - scores.mean(1)).sum())
    found = value(scores, assigned(scores))
    assert found <= optimum(scores) + 1e-6
    assert found >= optimum(scores) - INCREMENTS[-1] * spread - 1e-6


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e30])
@pytest.mark.parametrize("tokens", [3, 8, 37, 128])
def test_loads_are_exact_for_ties_and_huge_scores(tokens, scale):
    alike = np.tile([3.0, -1.0, 2.0, 0.5, -7.0], (tokens, 1))
    assigned(alike * scale)
    assigned(np.random.default_rng(tokens).normal(size=(tokens, 5)) * scale)


def test_scores_that_are_not_finite_still_end_in_exact_loads():
    scores = np.random.default_rng(0).normal(size=(24, 4))
    for bad in (np.nan, np.inf, -np.inf):
        for places in (slice(0, 1), slice(0, 24, 3), slice(None)):
            broken = scores.copy()
            broken[places, 1:3] = bad
            assigned(broken)


def test_two_rounds_of_bids_by_hand():
    # Two slots each. Spread: (1.5 + .5 + 1 + 2) / 4 = 1.25, so an increment of .8 adds 1.
    values = torch.tensor([[[0.0, -3.0], [0.0, -1.0], [0.0, -2.0], [-4.0, 0.0]]]).double()
    market = Market.of(values, full_mask(1, 4))
    one = Bids.none(market).reopened(market, 0.8).after_round(market, 0.8)
    # best minus second plus 1: 4, 2 and 3 for expert 0, which serves 4 and 3; 5 for expert 1,
    # which has a slot left, at nothing
    assert one.expert.tolist() == [[0, -1, 0, 1]] and one.price.tolist() == [[3.0, 0.0]]
    # token 1 has 0 - 3 from expert 0 and -1 from expert 1: it bids 0 + 2 + 1 for the latter
    two = one.after_round(market, 0.8)
    assert two.expert.tolist() == [[0, 1, 0, 1]] and two.price.tolist() == [[3.0, 3.0]]
    assert two.bid.tolist() == [[4.0, 3.0, 3.0, 5.0]]


def test_bidders_are_content_and_slots_are_kept_to():
    scores = torch.tensor(np.stack([problem(kind, 40, 6, 5) for kind in KINDS]))
    market = Market.of(scores - scores.amax(2, keepdim=True), full_mask(4, 40))
    bids = Bids.none(market)
    for increment in (1.0, 0.1):
        bids = bids.reopened(market, increment)
        for _ in range(25):
            price, bids = bids.price, bids.after_round(market, increment)
            assert (bids.price >= price).all()
            held = bids.expert >= 0
            loads = torch.nn.functional.one_hot(bids.expert.clamp(min=0), 6) * held.unsqueeze(2)
            assert (loads.sum(1) <= 7).all() and int(market.slots[0]) == 7
            profit = market.profit(bids.price)
            own = profit.gather(2, bids.expert.clamp(min=0).unsqueeze(2)).squeeze(2)
            slack = own - profit.amax(2) + increment * market.spread
            assert (slack[held] >= -1e-9).all()
        assert held.double().mean() > 0.9


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_chains_alone_find_the_optimum(rounds, monkeypatch):
    """However soon the auction is cut off, and from any start that is best at its prices."""
    monkeypatch.setattr(auction_module, "ROUNDS", rounds)
    for number, kind in enumerate(KINDS):
        scores = problem(kind, 90 + number, 8, number)
        best = optimum(scores)
        assert value(scores, assigned(scores)) >= best - 0.005 * abs(best)
    scores = problem("normal", 50, 4, 3)
    values, price = torch.tensor(scores).unsqueeze(0), torch.tensor([[0.3, -0.2, 1.0, 0.0]])
    start = (values - price.double().unsqueeze(1)).argmax(2)
    even = even_out(values, full_mask(1, 50), start, price.double())[0].numpy()
    assert sorted(np.bincount(even)) == [12, 12, 13, 13]
    assert value(scores, even) == pytest.approx(optimum(scores), rel=1e-9)


def groups(kind: str) -> RoutingContext:
    segment = torch.tensor(
        [[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 2, 2, 3, 3], [0] * 8, [1, 1, 1, 1, 1, 1, 1, 2]]
    )
    if kind == "documents":
        return RoutingContext.documents(segment > 0, segment, 3)
    return RoutingContext.build(segment > 0, rows=2 if kind == "two rows" else 1)


@pytest.mark.parametrize("kind", ["rows", "two rows", "documents"])
def test_every_group_is_assigned_by_itself(kind):
    context = groups(kind)
    scores = hidden(4, 8, 4, seed=3).flatten(0, 1)
    poisoned = torch.where(context.mask.flatten().unsqueeze(1), scores, torch.nan)
    whole = balanced_assignment(poisoned, context)
    group, live = context.group.flatten(), context.mask.flatten()
    seen = 0
    for number in range(context.num_groups):
        members = (live & (group == number)).nonzero().flatten()
        seen += len(members)
        if len(members):
            alone = assigned(scores[members].numpy())
            assert whole[members].tolist() == alone.tolist()
    assert seen == int(live.sum()) and not whole[~live].any()


def test_the_operator_keeps_torch_library_s_rules():
    context = groups("documents")
    arguments = (context.group.flatten(), context.mask.flatten(), context.num_groups)
    scores = hidden(4, 8, 4).flatten(0, 1)
    torch.library.opcheck(torch.ops.turnout.balanced_assignment.default, (scores, *arguments))


def test_training_balances_and_evaluation_takes_the_best():
    layer = small_layer(BaseRouter(), num_experts=4)
    x, context = hidden(3, 8), ragged_context(3, 8)
    with torch.no_grad():  # every token likes expert 2 best
        layer.router.weight.mul_(0.1)
        layer.router.weight[2] += 1.0
    x = x.abs()
    trained, evaluated = (layer.train(mode)(x, context)[1] for mode in (True, False))
    # 8, 5 and 2 tokens on 4 experts
    assert trained.kept.sort(1).values.tolist() == [[2, 2, 2, 2], [1, 1, 1, 2], [0, 0, 1, 1]]
    assert evaluated.kept.tolist() == [[0, 0, 8, 0], [0, 0, 5, 0], [0, 0, 2, 0]]


def test_weights_by_hand():
    # Affinities 2 and 0 of both tokens: one of each expert, and token 0 takes the better one.
    # sigmoid(2) = .880797, sigmoid(0) = .5
    router = build_router(BaseRouter(), RouterShape(2, 2))
    with torch.no_grad():
        router.weight.copy_(torch.eye(2))
    x = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    assignment, stats = router.train()(x, RoutingContext.of(full_mask(1, 2)))
    assert sorted(assignment.expert.tolist()) == [0, 1]
    assert sorted(assignment.weight.tolist()) == pytest.approx([0.5, 0.880797])
    # probabilities are softmax(2, 0) = .880797, .119203, twice
    assert stats.probability.tolist()[0] == pytest.approx([1.761594, 0.238406])
    assignment, _ = router.eval()(x, RoutingContext.of(full_mask(1, 2)))
    assert assignment.expert.tolist() == [0, 0]


def test_it_starts_orthogonal_and_from_its_generator():
    router = build_router(BaseRouter(), RouterShape(32, 8))
    for seed in (1, 2, 1):
        router.init_weights(torch.Generator().manual_seed(seed))
        weight = router.weight.detach().clone()
        assert torch.allclose(weight @ weight.T, 0.01 * torch.eye(8), atol=1e-6)
        if seed == 1:
            first = weight
    assert torch.equal(weight, first)


@pytest.mark.parametrize("group", [RowsGroup(1), RowsGroup(2), DocumentGroup()])
def test_it_is_batch_invariant_and_causal_in_evaluation_alone(group):
    layer = small_layer(BaseRouter(), group=group)
    assert layer.batch_invariant and not layer.causal
