"""sorted == einsum == a plain loop over tokens: outputs and every gradient."""

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import PRODUCTS
from tests.moe.cases import ROUTERS, hidden, ragged_context, relative_error, small_layer, told
from tests.moe.loop import layer_output
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.moe import Assignment, MoELayer, RoutingContext
from turnout.moe.dispatch import EinsumDispatcher, Granted, SortedDispatcher
from turnout.moe.experts import expert_of_row

CAPACITIES = {"dropless": None, "CF 1": 1.0, "CF 0.5": 0.5}
TOLERANCE = 1e-5  # of each tensor's largest entry, in float32


def gradients(layer: MoELayer, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of a fixed random projection of the output, with respect to input and parameters."""
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad(
        (y.double() * upstream).sum(), wanted, allow_unused=True, materialize_grads=True
    )
    return list(found)


def results(layer: MoELayer, x: Tensor, context: RoutingContext) -> list[list[Tensor]]:
    """Output and gradients by sort, by masks, and by the loop."""
    ways = [layer, layer.with_dispatcher(EinsumDispatcher())]
    outputs = [way(x, context)[0] for way in ways] + [layer_output(layer, x, context)]
    return [[y.detach(), *gradients(layer, x, y)] for y in outputs]


def check(layer: MoELayer, x: Tensor, context: RoutingContext) -> None:
    fast, masks, loop = results(layer, x.requires_grad_(), context)
    for one, two, expected in zip(fast, masks, loop, strict=True):
        assert relative_error(one, expected) <= TOLERANCE
        assert relative_error(two, expected) <= TOLERANCE


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("name", ROUTERS)
def test_three_ways_agree(name, capacity):
    layer = small_layer(ROUTERS[name], train_capacity_factor=CAPACITIES[capacity]).train()
    check(layer, hidden(3, 8), ragged_context(3, 8))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("priority", ["token", "choice", "score", "random"])
def test_every_priority(k, priority):
    layer = small_layer(TopKRouter(k, "raw"), train_capacity_factor=0.5, priority=priority).train()
    check(layer, hidden(3, 8), ragged_context(3, 8))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_all_tokens_to_one_expert(k, capacity):
    layer = small_layer(
        TopKRouter(k, "raw"), num_experts=8, train_capacity_factor=CAPACITIES[capacity]
    ).train()
    with torch.no_grad():  # every token ranks the experts alike; 8 - k of them are empty
        layer.router.weight.copy_(torch.arange(8.0).view(8, 1) * torch.ones(1, 8) / 8)
    check(layer, hidden(2, 8).abs(), ragged_context(2, 8, 0))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_one_token(k):
    layer = small_layer(TopKRouter(k, "raw"), train_capacity_factor=1.0).train()
    check(layer, hidden(1, 1), ragged_context(1, 1))


@pytest.mark.parametrize("name", ROUTERS)
def test_no_real_token(name):
    layer = small_layer(ROUTERS[name], train_capacity_factor=1.0).train()
    x = torch.full((2, 4, 8), torch.nan, requires_grad=True)
    context = told(RoutingContext.of(torch.zeros(2, 4, dtype=torch.bool)))
    for way in (layer, layer.with_dispatcher(EinsumDispatcher())):
        y, stats, _ = way(x, context)
        assert torch.equal(y, torch.zeros(2, 4, 8))
        assert int(stats.kept.sum()) == int(stats.router.tokens.sum()) == 0
        total = y.sum() + stats.router.z.sum() + stats.router.probability.sum()
        for grad in torch.autograd.grad(total, [x, *layer.parameters()]):
            assert torch.equal(grad, torch.zeros_like(grad))


def test_no_row_at_all():
    layer = small_layer(TopKRouter(2), train_capacity_factor=1.0).train()
    y, stats, decision = layer(torch.zeros(0, 8, 8), ragged_context(0, 8))
    assert y.shape == (0, 8, 8)
    assert stats.kept.shape == (0, 4) and decision.expert.shape == (0, 8, 2)


@pytest.mark.parametrize(
    "config",
    [
        FeedForwardConfig(16, "geglu", True, "multiplicative"),
        FeedForwardConfig(16, "swiglu", False, "additive"),
        FeedForwardConfig(16, "gelu", True),
        FeedForwardConfig(16, "clamped_swiglu", True),
    ],
    ids=lambda c: c.activation,
)
def test_every_kind_of_expert(config):
    layer = small_layer(TopKRouter(2), feed_forward=config, train_capacity_factor=1.0).train()
    check(layer, hidden(3, 8), ragged_context(3, 8))


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product(product):
    layer = small_layer(TopKRouter(2), product=product, train_capacity_factor=1.0).train()
    check(layer, hidden(3, 8), ragged_context(3, 8))


def test_packed_documents_as_groups():
    segment = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2]])
    context = RoutingContext.documents(segment > 0, segment, 3)
    layer = small_layer(TopKRouter(2), group_tokens=4, train_capacity_factor=1.0).train()
    check(layer, hidden(2, 8), context)


def test_groups_of_rows_share_slots():
    context = RoutingContext.build(torch.ones(4, 4, dtype=torch.bool), rows=2)
    layer = small_layer(TopKRouter(2), group_tokens=8, train_capacity_factor=0.5).train()
    check(layer, hidden(4, 4), context)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_bfloat16_is_as_exact_as_the_loop(k, capacity):
    """Root mean square errors against float64, for every tensor: measured 0.6 to 1.06 times the
    bfloat16 loop's, allowed 1.5 times. GEGLU has no kink at which a rounding flips a unit."""
    layer = small_layer(
        TopKRouter(k, "raw"),
        d_model=32,
        feed_forward=FeedForwardConfig(64, "geglu"),
        train_capacity_factor=CAPACITIES[capacity],
        group_tokens=16,
    ).train()
    context = ragged_context(3, 16)
    x = hidden(3, 16, 32, dtype=torch.bfloat16)
    fast, masks, loop = results(layer, x.requires_grad_(), context)
    exact_x = x.detach().double().requires_grad_()
    exact_y = layer_output(layer, exact_x, context)
    exact = [exact_y.detach(), *gradients(layer, exact_x, exact_y)]
    for one, two, oracle, truth in zip(fast, masks, loop, exact, strict=True):
        allowed = 1.5 * float((oracle.double() - truth).norm())
        assert 0 < float((one.double() - truth).norm()) <= allowed
        assert 0 < float((two.double() - truth).norm()) <= allowed


def test_one_expert_is_the_dense_network():
    from tests.moe.test_experts import twins

    config = FeedForwardConfig(16, "geglu")
    layer = small_layer(SwitchRouter(), num_experts=1, feed_forward=config)
    x, context = hidden(2, 5), RoutingContext.of(torch.ones(2, 5, dtype=torch.bool))
    (dense,) = twins(config, layer.experts)
    assert torch.allclose(layer(x, context)[0], dense(x), atol=1e-6)  # p = 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROUTERS)
def test_two_runs_are_bit_equal(name, dtype):
    layer = small_layer(ROUTERS[name], train_capacity_factor=1.0).train()
    context = ragged_context(3, 8)

    def run() -> list[Tensor]:
        x = hidden(3, 8, dtype=dtype).requires_grad_()
        y, stats, _ = layer(x, context)
        loss = y.float().square().sum() + stats.router.z.sum() + stats.router.load.sum()
        return [y.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()])]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ROUTERS)
def test_nan_in_padding_reaches_nothing(name):
    layer = small_layer(ROUTERS[name], train_capacity_factor=1.0, shared_experts=1).train()
    context = ragged_context(3, 8)
    clean = hidden(3, 8)
    poisoned = torch.where(context.mask.unsqueeze(-1), clean, torch.nan)
    for way in (layer, layer.with_dispatcher(EinsumDispatcher())):
        outcomes = []
        for x in (clean, poisoned):
            x = x.detach().requires_grad_()
            y, stats, _ = way(x, context)
            loss = (y.square().sum(-1) * context.mask).sum() + stats.router.z.sum()
            outcomes.append([y.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()])])
        for expected, found in zip(*outcomes, strict=True):
            assert torch.equal(found, expected)


def test_the_experts_input_is_the_layer_s_input():
    """Router noise acts on a copy: rows reach the experts bit for bit."""
    layer = small_layer(ROUTERS["switch_jitter"]).train()
    seen = []
    layer.experts.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = hidden(2, 8)
    layer(x, RoutingContext.of(torch.ones(2, 8, dtype=torch.bool)))
    rows = {tuple(row) for row in seen[0].tolist()}
    assert rows == {tuple(row) for row in x.flatten(0, 1).tolist()}


@pytest.fixture
def poisoned_memory():
    """Every tensor that torch leaves uninitialised holds NaN instead."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def test_the_poison_is_there(poisoned_memory):
    assert torch.empty(7).isnan().all() and torch.ones(3).new_empty(5).isnan().all()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ["switch", "top_4_selected", "noisy_top_2", "ntlb"])
def test_poisoned_scratch_reaches_no_output_or_gradient(name, product, poisoned_memory):
    """Drops, padding and passed-on choices leave rows that no product writes by itself."""
    layer = small_layer(
        ROUTERS[name], num_experts=8, product=product, train_capacity_factor=0.5
    ).train()
    x, context = hidden(2, 8).requires_grad_(), ragged_context(2, 8)
    expected = results(layer, x, context)[2]
    for way in (layer, layer.with_dispatcher(EinsumDispatcher())):
        y, stats, _ = way(x, context)
        assert int(stats.kept.sum()) < int(stats.router.tokens.sum()) * stats.choices
        for found, truth in zip([y.detach(), *gradients(way, x, y)], expected, strict=True):
            assert torch.isfinite(found).all()
            assert relative_error(found, truth) <= TOLERANCE


@pytest.mark.parametrize("dispatcher", [SortedDispatcher(), EinsumDispatcher()])
def test_an_assignment_need_not_give_every_token_as_many_experts(dispatcher):
    """Token 0 has three experts, token 1 none, token 2 one (as expert choice would have it)."""
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0], requires_grad=True)
    assignment = Assignment(
        token=torch.tensor([0, 2, 0, 0]),
        expert=torch.tensor([0, 0, 1, 2]),
        choice=torch.tensor([0, 0, 0, 0]),
        weight=weight,
        log_probability=torch.zeros(4),
        live=torch.tensor([True, True, True, True]),
        num_tokens=3,
        per_token=None,
    )
    granted = Granted(
        assignment, torch.tensor([0, 1, 0, 0]), assignment.live, torch.zeros(3).long(), 1, 1, 3, 2
    )
    x = torch.tensor([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]])
    dispatched = dispatcher.dispatch(x, granted)
    of_row = expert_of_row(dispatched.rows.shape[0], dispatched.offsets)
    scaled = dispatched.rows * (1.0 + of_row).unsqueeze(1)  # expert e multiplies by e + 1
    y = dispatcher.combine(scaled, dispatched.ticket)
    # token 0: (.5 * 1 + 1 * 2 + 3 * 3) x = 11.5 x; token 2: 2 * 1 x
    assert y.tolist() == [[11.5, 23.0], [0.0, 0.0], [6.0, 8.0]]
    y.sum().backward()
    # d y / d weight = the expert's factor times the sum of the token's entries
    assert weight.grad.tolist() == [3.0, 7.0, 6.0, 9.0]


@pytest.mark.parametrize("dispatcher", [SortedDispatcher(), EinsumDispatcher()])
def test_combine_weights_stay_float32_around_bfloat16_rows(dispatcher):
    """Weights 0.7503 and 0.75 are one number in bfloat16, whose step at 0.75 is 2^-8 = 0.0039."""
    assignment = Assignment.token_choice(
        expert=torch.tensor([[0, 1]]),
        weight=torch.tensor([[0.7503, 0.75]]),
        log_probability=torch.zeros(1, 2),
        live=torch.ones(1, 2, dtype=torch.bool),
    )
    granted = Granted(
        assignment, torch.zeros(2).long(), assignment.live, torch.zeros(1).long(), 1, 1, 2, 1
    )
    dispatched = dispatcher.dispatch(torch.ones(1, 1, dtype=torch.bfloat16), granted)
    of_row = expert_of_row(dispatched.rows.shape[0], dispatched.offsets)
    signed = dispatched.rows * torch.where(of_row == 0, 1, -1).unsqueeze(1)  # +x and -x
    y = dispatcher.combine(signed, dispatched.ticket)
    assert y.dtype == torch.bfloat16
    # 0.7503 - 0.75 = 0.0003, to float32's and then bfloat16's eight bits
    assert y.item() == pytest.approx(0.0003, rel=5e-3)
