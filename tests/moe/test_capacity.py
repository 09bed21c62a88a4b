"""Capacity: worked examples by hand, and a walk over the order as oracle."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moe.loop import served
from turnout.moe import Assignment, RoutingContext
from turnout.moe.capacity import grant
from turnout.moe.priority import ChoiceOrder, RandomOrder, ScoreOrder, TokenOrder


def assign(experts: list[list[int]], probability: list[list[float]] | None = None) -> Assignment:
    table = torch.tensor(experts)
    chance = torch.full(table.shape, 0.5) if probability is None else torch.tensor(probability)
    return Assignment.token_choice(table, chance, chance.log(), torch.ones_like(table) > 0)


def one_group(tokens: int) -> RoutingContext:
    return RoutingContext.of(torch.ones(1, tokens, dtype=torch.bool))


def run(assignment, order, capacity, at_most=None, num_experts=3):
    context = one_group(assignment.num_tokens)
    return grant(
        assignment,
        order.order(assignment, context),
        context.group.flatten(),
        num_groups=1,
        num_experts=num_experts,
        capacity=capacity,
        at_most=at_most,
    )


# Four tokens, two choices each, three experts of two slots:
#   token 0: A B    token 1: A B    token 2: B A    token 3: A C
EXPERTS = [[0, 1], [0, 1], [1, 0], [0, 2]]


def test_token_order_serves_both_choices_of_a_token_before_the_next():
    # 0 takes A0 B0; 1 takes A1 B1; both full: 2 gets nothing; 3 is refused A, takes C0.
    slot, kept = run(assign(EXPERTS), TokenOrder(), 2)
    assert kept.view(4, 2).tolist() == [[True, True], [True, True], [False, False], [False, True]]
    assert slot.view(4, 2).tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_choice_order_serves_all_first_choices_first():
    # First choices: 0 takes A0, 1 takes A1, 2 takes B0, 3 is refused A.
    # Second choices: 0 takes B1, 1 is refused B, 2 is refused A, 3 takes C0.
    slot, kept = run(assign(EXPERTS), ChoiceOrder(), 2)
    assert kept.view(4, 2).tolist() == [[True, True], [True, False], [True, False], [False, True]]
    assert slot.view(4, 2).tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]


def test_score_order_serves_the_surest_tokens_first():
    # First-choice probabilities .4 .5 .6 .7: tokens in the order 3 2 1 0.
    # First choices: 3 takes A0, 2 takes B0, 1 takes A1, 0 is refused A.
    # Second choices: 3 takes C0, 2 is refused A, 1 takes B1, 0 is refused B.
    chance = [[0.4, 0.3], [0.5, 0.3], [0.6, 0.3], [0.7, 0.2]]
    slot, kept = run(assign(EXPERTS, chance), ScoreOrder(), 2)
    assert kept.view(4, 2).tolist() == [[False, False], [True, True], [True, False], [True, True]]
    assert slot.view(4, 2).tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_score_order_breaks_ties_by_token():
    _, kept = run(assign([[0], [0], [0]], [[0.5], [0.5], [0.5]]), ScoreOrder(), 2)
    assert kept.tolist() == [True, True, False]


def test_no_token_left_behind_in_stages():
    # One slot each. Stage 1: token 0 takes A; 1 and 3 are refused A; 2 takes B.
    # Stage 2: 0 and 2 are served already; 1 is refused B; 3 takes C.
    _, kept = run(assign(EXPERTS), ChoiceOrder(), 1, at_most=1)
    assert kept.view(4, 2).tolist() == [[True, False], [False, False], [True, False], [False, True]]


def test_no_token_left_behind_in_token_order():
    # One slot each: 0 takes A; 1 is refused A, takes B; 2 is refused B and A; 3 takes C.
    _, kept = run(assign(EXPERTS), TokenOrder(), 1, at_most=1)
    assert kept.view(4, 2).tolist() == [[True, False], [False, True], [False, False], [False, True]]


def test_dead_entries_take_no_slot():
    table = torch.tensor([[0], [0], [0]])
    live = torch.tensor([[False], [True], [True]])
    chance = torch.full((3, 1), 0.5)
    slot, kept = run(Assignment.token_choice(table, chance, chance.log(), live), TokenOrder(), 1)
    assert kept.tolist() == [False, True, False]
    assert slot.tolist() == [0, 0, 0]


@st.composite
def problems(draw):
    tokens = draw(st.integers(0, 12))
    experts = draw(st.integers(1, 5))
    k = draw(st.integers(1, experts))
    table = [draw(st.permutations(range(experts)))[:k] for _ in range(tokens)]
    live = [[draw(st.booleans()) for _ in range(k)] for _ in range(tokens)]
    group = sorted(draw(st.integers(0, 2)) for _ in range(tokens))
    return {
        "table": table,
        "live": live,
        "group": group,
        "experts": experts,
        "k": k,
        "capacity": draw(st.one_of(st.none(), st.integers(1, 4))),
        "at_most": draw(st.one_of(st.none(), st.integers(1, k))),
        "order": draw(st.sampled_from([TokenOrder(), ChoiceOrder(), ScoreOrder(), RandomOrder(1)])),
    }


@settings(max_examples=300, deadline=None)
@given(problems())
def test_grant_equals_a_walk_over_the_order(problem):
    tokens, k = len(problem["table"]), problem["k"]
    chance = torch.rand(tokens, k, generator=torch.Generator().manual_seed(1))
    assignment = Assignment.token_choice(
        torch.tensor(problem["table"], dtype=torch.int64).view(tokens, k),
        chance,
        chance.log(),
        torch.tensor(problem["live"], dtype=torch.bool).view(tokens, k),
    )
    context = one_group(tokens)
    order = problem["order"].order(assignment, context)
    group = torch.tensor(problem["group"], dtype=torch.int64)
    slot, kept = grant(
        assignment,
        order,
        group,
        num_groups=3,
        num_experts=problem["experts"],
        capacity=problem["capacity"],
        at_most=problem["at_most"],
    )
    expected = served(
        assignment, order.tolist(), problem["group"], problem["capacity"], problem["at_most"]
    )
    assert sorted(order.tolist()) == list(range(tokens * k))
    assert kept.nonzero().flatten().tolist() == sorted(expected)
    assert {entry: int(slot[entry]) for entry in expected} == expected
