"""A trained bias of the router: by hand, and against a loop over tokens with its gradients."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conformance.test_kit import PLAIN
from tests.moe.cases import full_mask, hidden, ragged_context, relative_error, small_layer
from tests.moe.test_routers import LOG, router_for
from turnout.config.routers import TopKRouter
from turnout.config.routers.base import router_flops
from turnout.conformance import RouterLayer, check
from turnout.moe import RoutingContext

FORMS = ("raw", "renormalised", "softmax_of_selected")


def test_the_bias_chooses_and_weighs():
    # Logits ln .5, ln .3, ln .2 and a bias of 0, 0, ln 6: odds 5 : 3 : 12 over 20.
    router = router_for(TopKRouter(2, "softmax_of_selected", bias=True), torch.eye(3))
    with torch.no_grad():
        router.bias.copy_(torch.tensor([0.0, 0.0, math.log(6)]))
    assignment, stats = router(torch.tensor([LOG]), RoutingContext.of(full_mask(1, 1)))
    assert assignment.expert.tolist() == [2, 0]
    assert assignment.weight.tolist() == pytest.approx([12 / 17, 5 / 17])
    assert stats.probability[0].tolist() == pytest.approx([0.25, 0.15, 0.6])
    # The sum of the odds as they are, .5 + .3 + 1.2 = 2, is what the z-loss sees.
    assert stats.z.tolist() == pytest.approx([math.log(2) ** 2])


def test_it_starts_at_zero_and_then_changes_nothing():
    with_bias, without = (router_for(TopKRouter(2, bias=bias)) for bias in (True, False))
    assert with_bias.bias.tolist() == [0.0, 0.0, 0.0] and without.bias is None
    assert torch.equal(with_bias.weight, without.weight)
    x, context = hidden(2, 4, 3), RoutingContext.of(full_mask(2, 4))
    assert torch.equal(with_bias(x, context)[0].weight, without(x, context)[0].weight)


def by_loop(weight, bias, rows, k, form):
    """Combine weights of each row, an expert at a time, zero where it is not chosen."""
    found = []
    for row in rows:
        logits = [(matrix_row * row).sum() + b for matrix_row, b in zip(weight, bias, strict=True)]
        order = sorted(range(len(logits)), key=lambda e: -float(logits[e].detach()))[:k]
        over = order if form == "softmax_of_selected" else range(len(logits))
        total = sum(logits[e].exp() for e in over)
        chosen = {e: logits[e].exp() / total for e in order}
        if form == "renormalised":
            chosen = {e: p / sum(chosen.values()) for e, p in chosen.items()}
        zero = torch.zeros((), dtype=row.dtype)
        found.append(torch.stack([chosen.get(e, zero) for e in range(len(logits))]))
    return torch.stack(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("experts", [3, 5])
def test_weights_and_gradients_are_those_of_a_loop(form, experts):
    router = small_layer(TopKRouter(2, form, bias=True), num_experts=experts, d_model=6).router
    x, context = hidden(2, 5, 6).requires_grad_(), ragged_context(2, 5)
    real = context.mask.flatten()
    upstream = torch.randn(10, experts, generator=torch.Generator().manual_seed(4))
    upstream = torch.where(real.unsqueeze(1), upstream, 0.0)
    assignment, _ = router(x, context)
    table = torch.zeros(10, experts).index_put(
        (assignment.token, assignment.expert), torch.where(assignment.live, assignment.weight, 0.0)
    )
    wanted = [x, router.weight, router.bias]
    found = torch.autograd.grad((table * upstream).sum(), wanted)
    slow = [tensor.detach().double().requires_grad_() for tensor in wanted]
    expected = by_loop(slow[1], slow[2], slow[0].flatten(0, 1), 2, form)
    assert relative_error(table[real].detach(), expected[real].detach()) <= 1e-5
    truth = torch.autograd.grad((expected * upstream).sum(), slow)
    for one, other in zip(found, truth, strict=True):
        assert float(other.abs().max()) > 1e-3
        assert relative_error(one, other) <= 1e-5


def test_adding_it_is_no_product():
    # 16 tokens, 6 inputs, 4 experts: 2 * 16 * 24 operations, as without; 4 parameters more
    config = TopKRouter(2, bias=True)
    router = small_layer(config, num_experts=4, d_model=6).router
    with FlopCounterMode(display=False) as counter:
        router(hidden(2, 8, 6), ragged_context(2, 8))
    assert counter.get_total_flops() == 16 * router_flops(config, 6, 4) == 768
    assert sum(p.numel() for p in router.parameters()) == config.num_params(6, 4) == 28


def test_the_contract_holds_with_it():
    found = check(RouterLayer(TopKRouter(2, "softmax_of_selected", bias=True)), PLAIN)
    assert found.passed, found.text()
