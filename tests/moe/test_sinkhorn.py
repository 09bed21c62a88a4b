"""Sinkhorn routing: marginals, fixed points by hand, hostile logits, and the router around it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from turnout.config.errors import ConfigError
from turnout.config.routers import SinkhornRouter
from turnout.moe import RouterShape, RoutingContext, build_router
from turnout.moe.transport import sinkhorn


def plan_of(logits, context=None, *, temperature=1.0, sweeps=100, tolerance=1e-3):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    context = context or RoutingContext.of(full_mask(1, logits.shape[0]))
    return sinkhorn(
        logits, context, temperature=temperature, sweeps=sweeps, tolerance=tolerance
    ).double()


def check_marginals(plan, tokens, tolerance=1e-3):
    """Rows sum to 1 / tokens and columns to 1 / E, each relative to what it should be."""
    assert torch.isfinite(plan).all() and (plan >= 0).all()
    assert (plan.sum(1) * tokens - 1).abs().max() < 1e-5  # float32
    assert (plan.sum(0) * plan.shape[1] - 1).abs().max() < tolerance + 1e-5


def test_two_by_two_by_hand():
    # exp(L) = [[2, 1], [1, 1]]: the odds ratio 2 * 1 / (1 * 1) is kept, the sums become 1/2:
    # a = d, b = c = 1/2 - a and (a / b)^2 = 2, so a = sqrt 2 / (2 (1 + sqrt 2)) = .292893.
    plan = plan_of([[math.log(2), 0.0], [0.0, 0.0]], tolerance=1e-9)
    assert plan.flatten().tolist() == pytest.approx(
        [0.292893, 0.207107, 0.207107, 0.292893], rel=1e-5
    )
    # at temperature 1/2 the odds ratio is squared: (a / b)^2 = 4, a = 1/3
    sharp = plan_of([[math.log(2), 0.0], [0.0, 0.0]], temperature=0.5, tolerance=1e-9)
    assert sharp.flatten().tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 3], rel=1e-5)


@given(
    tokens=st.integers(1, 40),
    experts=st.integers(1, 9),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
)
def test_marginals(tokens, experts, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(tokens, experts, generator=generator)
    check_marginals(plan_of(logits, sweeps=10_000), tokens)


def test_marginals_of_huge_logits():
    # of one size, which the temperature takes away
    check_marginals(plan_of(1e4 * hidden(1, 64, 8)[0], temperature=1e4), 64)
    # of all tokens alike: an equal share of each expert, however much one is preferred
    alike = torch.tensor([[1e4, 0.0, -1e4, 500.0]]).expand(6, 4)
    assert torch.allclose(plan_of(alike), torch.full((6, 4), 1 / 24, dtype=torch.float64))
    # of two kinds of tokens that part without help
    plan = plan_of(torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4], [0.0, 1e4]]))
    assert plan.tolist() == [[0.25, 0.0], [0.25, 0.0], [0.0, 0.25], [0.0, 0.25]]
    # of three against one: a third of each of the three gives way, against odds of e^200
    plan = plan_of(torch.tensor([[100.0, 0.0]] * 3 + [[-100.0, 0.0]]), sweeps=2000)
    check_marginals(plan, 4)
    assert torch.allclose(
        plan[:3], torch.tensor([[1 / 6, 1 / 12]]).double().expand(3, 2), atol=1e-3
    )


def test_too_few_sweeps_still_give_a_plan():
    # 1e4 at temperature 1 is an assignment problem, which scaling approaches slowly
    logits = 1e4 * hidden(1, 64, 8)[0]
    plan = plan_of(logits, sweeps=5)
    assert torch.isfinite(plan).all()
    assert (plan.sum(1) * 64 - 1).abs().max() < 1e-5


def test_no_sweep_more_than_needed():
    logits = hidden(1, 64, 8, seed=4)[0]
    errors = [
        float((plan_of(logits, sweeps=sweeps, tolerance=0.01).sum(0) * 8 - 1).abs().max())
        for sweeps in range(1, 8)
    ]
    settled = next(i for i, error in enumerate(errors) if error <= 0.01)
    assert all(error > 0.01 for error in errors[:settled])
    assert errors[settled:] == [errors[settled]] * len(errors[settled:]) and settled < 6


def test_ties_and_one_token():
    assert torch.allclose(plan_of(torch.zeros(5, 3)), torch.full((5, 3), 1 / 15).double())
    # one token cannot be parted unless softly: a third each, whatever its logits
    assert torch.allclose(plan_of([[5.0, 0.0, -5.0]]), torch.full((1, 3), 1 / 3).double())


@pytest.mark.parametrize("kind", ["rows", "two rows", "documents"])
def test_every_group_is_scaled_by_itself(kind):
    segment = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [1, 2, 2, 2, 2, 2, 3, 3], [0] * 8, [1] * 8])
    if kind == "documents":
        context = RoutingContext.documents(segment > 0, segment, 3)
    else:
        context = RoutingContext.build(segment > 0, rows=2 if kind == "two rows" else 1)
    logits = torch.where((segment > 0).unsqueeze(2), hidden(4, 8, 4), torch.nan).flatten(0, 1)
    # the tolerances bind at other numbers of sweeps in each group
    whole = plan_of(logits, context, tolerance=0.05)
    group, live = context.group.flatten(), context.mask.flatten()
    for number in range(context.num_groups):
        members = (live & (group == number)).nonzero().flatten()
        if len(members):
            check_marginals(whole[members], len(members), 0.05)
            assert torch.allclose(whole[members], plan_of(logits[members], tolerance=0.05))
    assert not whole[~live].any()


def test_training_balances_and_evaluation_takes_the_best():
    layer = small_layer(SinkhornRouter(temperature=0.05, sweeps=500), group_tokens=64)
    x, context = hidden(2, 64).abs(), ragged_context(2, 64, 30)
    with torch.no_grad():  # every token likes expert 2 best
        layer.router.weight[2] += 1.0
    trained, evaluated = (layer.train(mode)(x, context)[1] for mode in (True, False))
    # near 64 / 4 and 34 / 4; the best of a soft plan need not be equal
    assert (trained.kept[0] - 16).abs().max() <= 2 and (trained.kept[1] - 8).abs().max() <= 2
    assert evaluated.kept[:, 2].tolist() == [64, 34]


def test_the_weight_is_the_probability_of_the_expert():
    # Both tokens like expert 0: .731059 and .880797. The plan gives expert 1 to the first, which
    # loses less: its weight is 1 - .731059.
    router = build_router(SinkhornRouter(), RouterShape(2, 2))
    with torch.no_grad():
        router.weight.copy_(torch.eye(2))
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    context = RoutingContext.of(full_mask(1, 2))
    assignment, stats = router.train()(x, context)
    assert assignment.expert.tolist() == [1, 0]
    assert assignment.weight.tolist() == pytest.approx([0.268941, 0.880797], rel=1e-5)
    assert stats.probability[0].tolist() == pytest.approx([0.731059 + 0.880797, 0.388144], rel=1e-5)
    assert router.eval()(x, context)[0].expert.tolist() == [0, 0]


def test_the_operator_keeps_torch_library_s_rules():
    context = ragged_context(2, 8)
    arguments = (context.group.flatten(), context.mask.flatten(), 2, 1.0, 100, 1e-3)
    torch.library.opcheck(
        torch.ops.turnout.sinkhorn.default, (hidden(2, 8, 4).flatten(0, 1), *arguments)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "router.temperature = 0.0: must be above 0"),
        ({"sweeps": 0}, "router.sweeps = 0: must be at least 1"),
        ({"tolerance": -1.0}, "router.tolerance = -1.0: must be above 0"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ConfigError) as error:
        SinkhornRouter(**fields)
    assert str(error.value) == message
