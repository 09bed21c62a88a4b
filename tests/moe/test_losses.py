"""Auxiliary losses: their values by hand and at uniform routing, in every named form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout.moe import LayerStats, RouterStats
from turnout.moe.losses import (
    BALANCE_FORMS,
    LossSums,
    importance_loss,
    load_balancing_loss,
    load_loss,
    router_losses,
    squared_variation,
)


def sums(first, probability, *, assigned=None, tokens=None, weight=None, load=None) -> LossSums:
    first = torch.tensor(first)
    zero = torch.zeros(first.shape)
    return LossSums(
        tokens=first.sum(1) if tokens is None else torch.tensor(tokens),
        assigned=first if assigned is None else torch.tensor(assigned),
        first_choice=first,
        probability=torch.tensor(probability),
        weight=zero if weight is None else torch.tensor(weight),
        load=zero if load is None else torch.tensor(load),
    )


def balance(name: str, values: LossSums, choices: int = 1) -> float:
    return float(load_balancing_loss(values, choices=choices, form=BALANCE_FORMS[name]).sum())


def test_switch_balance_by_hand():
    # 4 tokens, 2 experts, 3 of them to expert 0; mean probabilities .6 and .4:
    # 2 * (3/4 * .6 + 1/4 * .4) = 2 * (.45 + .1) = 1.1
    assert balance("switch", sums([[3, 1]], [[2.4, 1.6]])) == pytest.approx(1.1)


def test_gshard_balance_by_hand():
    # The same tokens: (1/2) * (3/4 * .6 + 1/4 * .4) = .275 = switch / E^2
    assert balance("gshard", sums([[3, 1]], [[2.4, 1.6]])) == pytest.approx(0.275)


def test_all_choices_by_hand():
    # 4 tokens, 3 experts, k = 2: 8 assignments 4, 3, 1; mean probabilities .5, .3, .2:
    # sum = 4/4*.5 + 3/4*.3 + 1/4*.2 = .775; times 3 = 2.325 (flaxformer), over k = 1.1625
    values = sums([[3, 1, 0]], [[2.0, 1.2, 0.8]], assigned=[[4, 3, 1]], tokens=[4])
    assert balance("flaxformer", values, 2) == pytest.approx(2.325)
    assert balance("deepseek", values, 2) == pytest.approx(1.1625)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", sorted(BALANCE_FORMS))
def test_value_at_uniform_routing(name, k):
    experts, tokens = 4, 16
    values = sums(
        [[tokens // experts] * experts],
        [[tokens / experts] * experts],
        assigned=[[k * tokens // experts] * experts],
        tokens=[tokens],
    )
    uniform = {"1": 1.0, "k": float(k), "1 / E^2": 1 / 16}
    assert balance(name, values, k) == pytest.approx(uniform[BALANCE_FORMS[name].uniform])


def test_a_scope_without_tokens_gives_zero_and_no_gradient():
    probability = torch.zeros(1, 3, requires_grad=True)
    weight = torch.zeros(1, 3, requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.int64)
    values = LossSums(none[:, 0], none, none, probability, weight, weight)
    form = BALANCE_FORMS["switch"]
    total = load_balancing_loss(values, choices=1, form=form) + importance_loss(values)
    total.sum().backward()
    assert float(total.detach()) == 0.0
    assert torch.equal(probability.grad, torch.zeros(1, 3))
    assert torch.equal(weight.grad, torch.zeros(1, 3))


def test_squared_variation_by_hand():
    # 1, 2, 3: mean 2, population variance (1 + 0 + 1) / 3 = 2/3, over 4: 1/6
    assert float(squared_variation(torch.tensor([[1.0, 2.0, 3.0]]))) == pytest.approx(1 / 6)
    # all to one of four: mean 1/4, variance 3/16, over 1/16: 3 = E - 1
    assert float(squared_variation(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))) == pytest.approx(3.0)


def test_squared_variation_at_its_minimum_has_a_finite_gradient():
    # V-MoE's form has a NaN gradient at perfect balance, where the deviation is 0.
    even = torch.ones(1, 4, requires_grad=True)
    squared_variation(even).sum().backward()
    assert torch.equal(even.grad, torch.zeros(1, 4))
    assert float(squared_variation(torch.tensor([[5.0]]))) == 0.0  # one expert


def test_importance_reads_weights_and_load_reads_load():
    values = sums([[1, 1]], [[1.0, 1.0]], weight=[[3.0, 1.0]], load=[[1.0, 1.0]])
    # mean 2, variance 1, over 4
    assert float(importance_loss(values)) == pytest.approx(0.25)
    assert float(load_loss(values)) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
def test_balance_is_one_plus_the_variation_when_probabilities_match_counts(counts):
    # f = P = n / T: E * sum n^2 / T^2 = 1 + variance / mean^2, so never below 1
    values = sums([counts], [[float(count) for count in counts]])
    assert balance("switch", values) == pytest.approx(
        1 + float(squared_variation(values.probability)), rel=1e-5
    )


def test_megablocks_counts_all_choices():
    # the numbers of test_all_choices_by_hand
    values = sums([[3, 1, 0]], [[2.0, 1.2, 0.8]], assigned=[[4, 3, 1]], tokens=[4])
    assert balance("megablocks", values, 2) == pytest.approx(1.1625)
    assert balance("mixtral", values, 2) == pytest.approx(2.325)


def test_router_losses_by_hand():
    # Two groups of E = 2, the second empty: balance 1.1 (see test_switch_balance_by_hand) over one
    # group; 4 tokens whose squared log-sum-exp add up to 8, so a z-loss of 2:
    # 0.5 * 1.1 + 0.1 * 2 = 0.75
    counts = torch.tensor([[3, 1], [0, 0]])
    chance = torch.tensor([[2.4, 1.6], [0.0, 0.0]])
    per_group = torch.tensor([8.0, 0.0])
    router = RouterStats(
        counts.sum(1), counts, counts, chance, chance, chance, per_group, per_group, per_group
    )
    stats = LayerStats("moe", "decoder", 1, 1, router, counts, counts.sum(1) * 0, per_group)
    assert float(router_losses(stats, balance=0.5, router_z=0.1)) == pytest.approx(0.75)
    # A part of a step with 5 groups and 16 tokens: 0.5 * 1.1 / 5 + 0.1 * 8 / 16 = 0.16
    part = router_losses(stats, balance=0.5, router_z=0.1, groups=5, tokens=16)
    assert float(part) == pytest.approx(0.16)
