"""Expert output masking (NLLB, 2207.04672), and a router's bias."""

from dataclasses import replace

import pytest
import torch

from tests.moe.cases import full_mask, hidden, small_layer
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import ExpertChoiceRouter, SwitchRouter, TopKRouter
from turnout.moe import RoutingContext
from turnout.moe.dispatch import EinsumDispatcher
from turnout.moe.masking import OutputMasking

RATE = 0.25


def pair(router=None, **fields):
    """The same layer with and without masking."""
    router = router or TopKRouter(2)
    return tuple(small_layer(router, **fields, output_masking=rate) for rate in (RATE, 0.0))


@pytest.mark.parametrize("router", [TopKRouter(2), ExpertChoiceRouter(2)])
def test_evaluation_takes_what_training_leaves_on_average(router):
    masked, plain = (layer.eval() for layer in pair(router))
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    torch.testing.assert_close(masked(x, context)[0], (1 - RATE) * plain(x, context)[0])


@pytest.mark.parametrize("router", [TopKRouter(2), ExpertChoiceRouter(2)])
def test_training_leaves_whole_outputs_out(router):
    """Each token's sum is one over some of its experts, with the weights as they were."""
    masked, plain = (layer.train() for layer in pair(router))
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    y, stats, decision = masked(x, context)
    whole, plain_stats, plain_decision = plain(x, context)
    # Decisions and sums say what was decided, not what was left out.
    assert torch.equal(decision.weight, plain_decision.weight)
    assert torch.equal(stats.kept, plain_stats.kept)
    again, _, _ = masked(x, context)
    assert torch.equal(again, y)
    experts = plain.experts
    for row in range(2):
        for token in range(8):
            outputs = []
            for expert, weight in zip(
                decision.expert[row, token].tolist(),
                decision.weight[row, token].tolist(),
                strict=True,
            ):
                if expert >= 0:
                    inner = torch.relu(x[row, token] @ experts.w_in[expert])
                    outputs.append(weight * (inner @ experts.w_out[expert]))
            sums = [torch.zeros(8)]
            for output in outputs:
                sums += [each + output for each in sums]
            nearest = min(float((y[row, token] - each).abs().max().detach()) for each in sums)
            assert nearest <= 1e-5
    assert not torch.allclose(y, whole)


def test_the_share_that_is_left_out_and_its_gradient():
    """Of 2 * 4,000 outputs a quarter, give or take six deviations of sqrt(8000 * 3 / 16) = 39."""
    masked, plain = (layer.train() for layer in pair())
    context = RoutingContext.of(full_mask(40, 100))
    assignment, _ = plain.router(hidden(40, 100), context)
    left = OutputMasking(RATE, 0).masked(assignment, context, experts=4, training=True)
    gone = int((left.weight == 0).sum())
    assert abs(gone - 2000) <= 6 * 39
    kept = left.weight != 0
    assert torch.equal(left.weight[kept], assignment.weight[kept])
    # Another layer, another step and another row draw anew.
    other = OutputMasking(RATE, 1).masked(assignment, context, experts=4, training=True)
    assert not torch.equal(left.weight, other.weight)
    y, _, _ = masked(hidden(2, 8), RoutingContext.of(full_mask(2, 8)))
    y.square().sum().backward()
    assert masked.router.weight.grad is not None and bool(masked.router.weight.grad.any())


def test_both_dispatchers_agree_in_output_and_gradient():
    masked, _ = pair()
    other = masked.train().with_dispatcher(EinsumDispatcher())
    x, context = hidden(2, 8), RoutingContext.of(full_mask(2, 8))
    found = []
    for layer in (masked, other):
        layer.zero_grad()
        y = layer(x, context)[0]
        y.square().sum().backward()
        found.append((y.detach(), [p.grad.clone() for p in layer.parameters()]))
    torch.testing.assert_close(found[0], found[1])


def test_padding_moves_no_draw():
    masked, _ = pair()
    mask = torch.ones(1, 6, dtype=torch.bool)
    x = hidden(1, 6)
    y = masked.train()(x, RoutingContext.of(mask))[0]
    wide = torch.cat((torch.zeros(1, 2, 8), x), dim=1)
    context = RoutingContext.of(torch.cat((torch.zeros(1, 2, dtype=torch.bool), mask), dim=1))
    torch.testing.assert_close(masked(wide, context)[0][:, 2:], y)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_cannot_be(rate):
    with pytest.raises(ConfigError, match=r"moe.output_masking = .*: must be in \[0, 1\)"):
        MoEConfig(4, output_masking=rate)
    with pytest.raises(ConfigError, match=r"moe.output_masking = 0.1: must be left out where"):
        MoEConfig(4, attention="only", output_masking=0.1)


@pytest.mark.parametrize("router", [SwitchRouter(bias=True), TopKRouter(2, "raw", bias=True)])
def test_a_router_s_bias_is_added_to_its_logits(router):
    """With a matrix of zeros the logits are the bias: log 1, log 2, log 3, log 4 are the
    probabilities .1, .2, .3, .4."""
    layer = small_layer(router).eval()
    layer.router.init_weights()
    assert torch.equal(layer.router.bias.detach(), torch.zeros(4))
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.bias.copy_(torch.arange(1.0, 5.0).log())
    x, context = hidden(1, 3), RoutingContext.of(full_mask(1, 3))
    y, _, decision = layer(x, context)
    chosen = [3, 2][: router.active]
    assert decision.expert[0].tolist() == [chosen] * 3
    expected = torch.tensor([0.4, 0.3][: router.active]).expand(3, -1)
    torch.testing.assert_close(decision.weight[0], expected)
    y.square().sum().backward()
    assert bool(layer.router.bias.grad.any())
    assert small_layer(replace(router, bias=False)).router.bias is None
