"""Stacked experts against one dense network each; initial weights; expert dropout."""

import math

import pytest
import torch

from turnout.config.feed_forward import FeedForwardConfig
from turnout.moe import Experts
from turnout.moe.experts import expert_of_row
from turnout.nn.feed_forward import FeedForward

SHAPES = [
    FeedForwardConfig(12, activation, bias, hidden_bias)
    for activation, bias, hidden_bias in [
        ("relu", False, "none"),
        ("gelu", True, "none"),
        ("geglu", True, "multiplicative"),
        ("swiglu", False, "additive"),
        ("relu", True, "multiplicative"),
        ("clamped_swiglu", True, "none"),
    ]
]


def twins(config: FeedForwardConfig, experts: Experts) -> list[FeedForward]:
    """Dense networks with the weights of each expert."""
    found = []
    for index in range(experts.num_experts):
        dense = FeedForward(experts.w_in.shape[1], config)
        with torch.no_grad():
            for name, parameter in dense.named_parameters():
                stacked = getattr(experts, name)[index]
                parameter.copy_(stacked.t() if name.startswith("w_") else stacked)
        found.append(dense)
    return found


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.activation}-{c.bias}-{c.hidden_bias}")
def test_an_expert_is_a_dense_network(config):
    experts = Experts(3, 8, config)
    generator = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    rows = torch.randn(10, 8, generator=generator)
    offsets = torch.tensor([4, 4, 9], dtype=torch.int32)  # the second expert is empty
    out = experts(rows, offsets)
    first, _, third = twins(config, experts)
    assert torch.allclose(out[:4], first(rows[:4]), atol=1e-5)
    assert torch.allclose(out[4:9], third(rows[4:9]), atol=1e-5)
    assert out.shape == (10, 8)


def test_expert_of_row_skips_empty_experts():
    offsets = torch.tensor([2, 2, 3], dtype=torch.int32)
    assert expert_of_row(5, offsets).tolist() == [0, 0, 2, 2, 2]


def test_initial_deviation_is_the_true_one_per_expert():
    # std sqrt(.1 / fan_in): fan-in 256 in, 512 out; cut at two deviations of the normal before.
    experts = Experts(4, 256, FeedForwardConfig(512))
    experts.init_weights(torch.Generator().manual_seed(0))
    for weight, fan_in in ((experts.w_in, 256), (experts.w_out, 512)):
        expected = math.sqrt(0.1 / fan_in)
        for expert in weight.detach():
            assert float(expert.std()) == pytest.approx(expected, rel=0.01)
        # 2 / .8796 = 2.274 realised deviations is where the tail is cut
        assert float(weight.detach().abs().max()) <= 2.2745 * expected


def test_hidden_biases_start_neutral():
    additive = Experts(2, 4, FeedForwardConfig(6, hidden_bias="additive"))
    multiplicative = Experts(2, 4, FeedForwardConfig(6, bias=True, hidden_bias="multiplicative"))
    for experts in (additive, multiplicative):
        experts.init_weights()
    assert torch.equal(additive.hidden_bias, torch.zeros(2, 6))
    assert torch.equal(multiplicative.hidden_bias, torch.ones(2, 6))
    assert torch.equal(multiplicative.b_out, torch.zeros(2, 4))


def test_expert_dropout_acts_inside_and_in_training_alone():
    experts = Experts(1, 8, FeedForwardConfig(4096), dropout=0.4)
    torch.nn.init.constant_(experts.w_in, 1.0)
    torch.nn.init.constant_(experts.w_out, 1.0)
    rows, offsets = torch.full((1, 8), 0.125), torch.tensor([1], dtype=torch.int32)
    # every hidden unit is 1, so the output counts the kept ones, scaled by 1 / .6
    assert experts.eval()(rows, offsets)[0, 0].item() == pytest.approx(4096)
    torch.manual_seed(0)
    dropped = experts.train()(rows, offsets)[0, 0].item()
    assert dropped != pytest.approx(4096)
    assert abs(dropped * 0.6 / 4096 - 0.6) < 5 * math.sqrt(0.24 / 4096)
    # another pass draws another mask
    assert experts(rows, offsets)[0, 0].item() != dropped
