"""DSelect-k: smooth steps, codes, weights and their gradients, by hand."""

import math

import pytest
import torch

from tests.moe.cases import full_mask, hidden, small_layer
from tests.moe.test_routers import router_for
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import DSelectKRouter
from turnout.moe import RoutingContext
from turnout.moe.routers.dselect_k import bit_entropy, selections, smooth_steps


def route(codes, mixing, k, experts=4, width=1.0):
    """One token with those codes [k * bits] and mixing logits [k]."""
    size = len(codes) + len(mixing)
    router = router_for(DSelectKRouter(k, width), num_experts=experts, d_model=size)
    with torch.no_grad():
        router.weight.copy_(torch.eye(size)[: len(codes)])
        router.mixing_weight.copy_(torch.eye(size)[len(codes) :])
    x = torch.tensor([[[*codes, *mixing]]], requires_grad=True)
    return x, *router(x, RoutingContext.of(full_mask(1, 1)))


def by_expert(assignment, experts=4):
    weights = torch.zeros(experts)
    return weights.scatter(0, assignment.expert, assignment.weight.detach()).tolist()


def test_the_smooth_step_is_the_published_cubic():
    for width in (0.5, 1.0, 3.0):
        t = torch.linspace(-width / 2, width / 2, 101)
        cubic = -2 / width**3 * t**3 + 3 / (2 * width) * t + 0.5
        one, zero = smooth_steps(t.view(1, 1, -1), width)
        assert torch.allclose(one.flatten(), cubic, atol=1e-6)
        assert torch.allclose(one + zero, torch.ones(1), atol=1e-6)
    one, zero = smooth_steps(torch.tensor([[[-0.5, -7.0, 0.5, 1e30]]]), 1.0)
    assert one.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert zero.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]


def test_bit_j_of_an_expert_is_code_j():
    one = torch.tensor([[[1.0, 0.0, 1.0]]])
    assert selections(one, 1 - one)[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]  # 5 = 0b101


def test_one_selector_by_hand():
    # S(.25) = -2 / 64 + 3 / 8 + 1 / 2 = .84375 for bit 0, bit 1 is 0
    _, assignment, stats = route([0.25, -1.0], [0.0], 1)
    assert by_expert(assignment) == [0.15625, 0.84375, 0.0, 0.0]
    assert assignment.expert[assignment.live].tolist() == [1, 0]  # the heavier one first
    assert stats.probability[0].tolist() == [0.15625, 0.84375, 0.0, 0.0]
    assert stats.first_choice[0].tolist() == [0, 1, 0, 0]


def test_two_selectors_by_hand():
    # The first holds expert 3 with weight 3 / 4, the second halves experts 1 and 3.
    _, assignment, stats = route([9.0, 9.0, 9.0, 0.0], [math.log(3), 0.0], 2)
    assert by_expert(assignment) == pytest.approx([0, 0.125, 0, 0.875])
    assert stats.entropy.item() == pytest.approx(math.log(2))  # of the one open bit
    assert stats.z.item() == pytest.approx(math.log(4) ** 2)


def test_decided_codes_leave_k_experts_at_most():
    layer = small_layer(DSelectKRouter(3, width=1e-6), num_experts=8).train()
    assignment, stats = layer.router(hidden(1, 200), RoutingContext.of(full_mask(1, 200)))
    taken = assignment.live.view(200, 8).sum(1)
    assert taken.max() == 3 and taken.min() >= 1  # two selectors may hold the same one
    assert stats.probability.sum().item() == pytest.approx(200, rel=1e-5)


def test_it_begins_with_all_experts():
    router = router_for(DSelectKRouter(2), num_experts=8, d_model=16)
    assignment, _ = router(hidden(1, 64, 16) * 0.1, RoutingContext.of(full_mask(1, 64)))
    assert assignment.live.all()


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_weights_sum_to_one_and_none_is_negative(width):
    layer = small_layer(DSelectKRouter(2, width), num_experts=8).train()
    assignment, _ = layer.router(hidden(1, 500), RoutingContext.of(full_mask(1, 500)))
    weight = assignment.weight.detach().view(500, 8)
    assert torch.allclose(weight.sum(1), torch.ones(500), atol=1e-5)
    assert torch.equal(weight > 0, assignment.live.view(500, 8))
    assert (weight[:, 1:] <= weight[:, :-1]).all()


def test_gradients_by_hand():
    # dS/dt = 6 u (1 - u) = 6 * .75 * .25 = 1.125 for expert 1, the second bit is decided
    x, assignment, _ = route([0.25, -1.0], [0.0], 1)
    (grad,) = torch.autograd.grad(assignment.weight[0], x)
    assert grad.flatten().tolist() == pytest.approx([1.125, 0.0, 0.0])


def test_decided_codes_rest_and_the_mixture_learns():
    x, assignment, stats = route([9.0, 9.0, -9.0, -9.0], [0.0, 0.0], 2)
    assert by_expert(assignment) == [0.5, 0.0, 0.0, 0.5]
    (grad,) = torch.autograd.grad(assignment.weight[0] + stats.entropy.sum(), x)
    # d softmax = .5 * .5; expert 0 is the second selector's
    assert grad.flatten().tolist() == pytest.approx([0, 0, 0, 0, -0.25, 0.25])


def test_the_entropy_is_finite_with_its_gradient_everywhere():
    # Closer and closer to both ends, where the logarithms grow and the slopes vanish.
    ends = 0.5 - 2.0 ** -torch.arange(1.0, 60.0)
    codes = torch.cat([-ends, ends, torch.tensor([-0.5, 0.5, -2.0, 2.0])]).requires_grad_()
    entropy = bit_entropy(*smooth_steps(codes.view(1, 1, -1), 1.0))
    assert torch.isfinite(entropy).all() and entropy.min() >= 0
    assert entropy.max().item() == pytest.approx(math.log(2))
    (grad,) = torch.autograd.grad(entropy.sum(), codes)
    assert torch.isfinite(grad).all()


def test_the_entropy_is_that_of_the_selectors():
    one, zero = smooth_steps(hidden(1, 40).view(1, 40, 8)[:, :, :3] * 0.3, 1.0)
    weights = selections(one, zero).double()
    direct = -(weights * weights.clamp(min=1e-300).log()).sum(2)
    found = bit_entropy(one, zero).sum(2)
    assert torch.allclose(found.double(), direct, atol=1e-5)


@pytest.mark.parametrize("experts", [1, 3, 6])
def test_codes_need_a_power_of_two(experts):
    with pytest.raises(ConfigError, match=f"moe.num_experts = {experts}: must be a power of two"):
        MoEConfig(experts, DSelectKRouter(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DSelectKRouter(0), "router.k = 0: must be at least 1"),
        (lambda: DSelectKRouter(width=0.0), "router.width = 0.0: must be above 0"),
        (lambda: MoEConfig(2, DSelectKRouter(4)), "moe.num_experts = 2: must be at least 4"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (8, 2), (64, 4)])
def test_parameters_are_counted(experts, k):
    config = DSelectKRouter(k)
    router = router_for(config, num_experts=experts, d_model=6)
    built = sum(weight.numel() for weight in router.parameters())
    assert built == config.num_params(6, experts) == 6 * k * (math.log2(experts) + 1)
