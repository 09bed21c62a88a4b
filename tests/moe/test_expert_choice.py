"""Expert choice: by hand, against a loop, with a cap, in hostile groups, replayed, refused."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.moe.cases import full_mask, hidden, ragged_context, small_layer
from tests.moe.taking import entries_of, taken_by_loop
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig, RowsGroup
from turnout.config.routers import ExpertChoiceRouter
from turnout.moe import LayerDecision, RouterShape, RoutingContext, build_layer, build_router
from turnout.moe.transport import capped_shares


def router_of(config=None, *, slots, num_experts=4, d_model=8, seed=0):
    router = build_router(
        config or ExpertChoiceRouter(), RouterShape(d_model, num_experts, slots=slots)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        torch.nn.init.normal_(router.weight, std=d_model**-0.5, generator=generator)
    return router


def route(logits, context=None, *, slots, config=None):
    """Routes tokens [T, E] whose logits are given exactly, as one row unless a context says."""
    table = torch.as_tensor(logits, dtype=torch.float32)
    router = router_of(config, slots=slots, num_experts=table.shape[1], d_model=table.shape[1])
    with torch.no_grad():
        router.weight.copy_(torch.eye(table.shape[1]))
    context = context or RoutingContext.of(full_mask(1, table.shape[0]))
    return router(table.view(*context.mask.shape, -1), context)[0]


def test_by_hand():
    # Probabilities of experts 0, 1: token 0 .9 .1, token 1 .6 .4, token 2 .8 .2, token 3 .3 .7.
    # With two slots expert 0 takes tokens 0 and 2, expert 1 tokens 3 and 1: all have one expert.
    p = [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]]
    logits = [[math.log(value) for value in row] for row in p]
    two = route(logits, slots=2)
    assert entries_of(two) == [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 0)]
    by_token = dict(zip(two.token.tolist(), two.weight.tolist(), strict=True))
    assert by_token == pytest.approx({0: 0.9, 1: 0.4, 2: 0.8, 3: 0.7})
    # With three, expert 0 takes 0, 2, 1 and expert 1 takes 3, 1, 2. Both have tokens 1 (.6 > .4:
    # expert 0 is its first) and 2 (.8 > .2).
    three = route(logits, slots=3)
    expected = [(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 1, 1), (3, 1, 0)]
    assert entries_of(three) == expected
    # those of first choices come first, and an entry for every slot of every expert
    assert three.choice.tolist() == [0, 0, 0, 0, 1, 1] and three.live.all()


def test_ties_go_to_the_lower_token_and_expert():
    assignment = route(torch.zeros(4, 3), slots=2)
    expected = [(t, e, e) for t in (0, 1) for e in range(3)]
    assert entries_of(assignment) == expected
    assert assignment.weight.tolist() == pytest.approx([1 / 3] * 6)


def test_huge_logits_still_order_the_tokens():
    # softmax of (0, -1e4) and (0, -2e4) is (1, 0) in float32 for both
    logits = [[0.0, -2e4], [0.0, -1e4], [0.0, -3e4]]
    assert entries_of(route(logits, slots=1)) == [(0, 0, 0), (1, 1, 0)]


@st.composite
def problems(draw):
    """A context of one of the three kinds of groups, scores with ties, and slots."""
    batch, length = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 7))
    pattern = st.lists(st.integers(0, 3), min_size=length, max_size=length)
    segment = torch.tensor([sorted(draw(pattern)) for _ in range(batch)])
    kind = draw(st.sampled_from(["rows", "two rows", "documents"]))
    if kind == "documents":
        context = RoutingContext.documents(segment > 0, segment, 3)
    else:
        rows = 2 if kind == "two rows" and batch > 1 else 1
        context = RoutingContext.build(segment > 0, rows=rows)
    experts = draw(st.integers(2, 4))
    cells = st.lists(st.integers(-2, 2), min_size=experts, max_size=experts)
    logits = [draw(cells) for _ in range(batch * length)]
    return context, torch.tensor(logits).float(), draw(st.integers(1, 9))


@given(problems())
def test_every_group_against_the_loop(problem):
    context, logits, slots = problem
    # the padding holds NaN, as it may
    poisoned = torch.where(context.mask.flatten().unsqueeze(1), logits, torch.nan)
    assignment = route(poisoned, context, slots=slots)
    assert entries_of(assignment) == taken_by_loop(torch.log_softmax(logits, 1), context, slots)
    # exactly min(slots, live tokens) an expert and group
    cell = context.group.flatten()[assignment.token] * logits.shape[1] + assignment.expert
    size = context.num_groups * logits.shape[1]
    loads = torch.bincount(cell[assignment.live], minlength=size).view(context.num_groups, -1)
    tokens = torch.bincount(
        context.group.flatten()[context.mask.flatten()], minlength=context.num_groups
    )
    assert torch.equal(loads, tokens.clamp(max=slots).unsqueeze(1).expand_as(loads))
    assert not assignment.weight[~assignment.live].any()


def test_the_number_of_entries_is_a_constant_of_the_shapes():
    # 3 rows of 8, 4 experts: 3 * 4 * 5 with five slots, and never more than all pairs
    for padding in (0, 3):
        x, context = hidden(3, 8), ragged_context(3, 8, padding)
        assert router_of(slots=5)(x, context)[0].token.shape == (60,)
        assert router_of(slots=50)(x, context)[0].token.shape == (96,)
    # documents: three to a row, of five slots each, but only eight tokens
    segment = torch.ones(3, 8, dtype=torch.int64)
    context = RoutingContext.documents(segment > 0, segment, 3)
    assert router_of(slots=5)(hidden(3, 8), context)[0].token.shape == (96,)


@pytest.mark.parametrize("cap", [None, 2])
def test_padding_on_any_side_moves_nothing(cap):
    router = router_of(ExpertChoiceRouter(2, cap), slots=3)
    x = hidden(1, 6)
    plain = router(x, RoutingContext.of(full_mask(1, 6)))
    expected = entries_of(plain[0])
    for before, behind in ((3, 0), (0, 4), (2, 9)):
        padded = torch.full((1, before + 6 + behind, 8), torch.nan)
        padded[:, before : before + 6] = x
        context = RoutingContext.of(~padded.isnan().any(2))
        found, stats = router(padded, context)
        moved = [(token - before, expert, choice) for token, expert, choice in entries_of(found)]
        assert moved == expected
        assert torch.equal(stats.first_choice, plain[1].first_choice)


@pytest.mark.parametrize("config", [ExpertChoiceRouter(), ExpertChoiceRouter(1, cap=1)])
def test_hostile_groups(config):
    one = router_of(config, slots=3)(hidden(1, 1), RoutingContext.of(full_mask(1, 1)))[0]
    assert 1 <= len(entries_of(one)) <= (config.cap or 4)
    none = router_of(config, slots=3)(
        torch.full((2, 3, 8), torch.nan), RoutingContext.of(torch.zeros(2, 3, dtype=torch.bool))
    )
    assert not none[0].live.any() and not none[0].weight.any()
    assert all(bool(torch.isfinite(value).all()) for value in vars(none[1]).values())
    alike = hidden(1, 1).expand(1, 8, 8)
    for scale in (1.0, 1e4):
        found = router_of(config, slots=2)(alike * scale, RoutingContext.of(full_mask(1, 8)))[0]
        assert torch.isfinite(found.weight).all()
    empty = router_of(config, slots=3)(hidden(0, 4), RoutingContext.of(full_mask(0, 4)))[0]
    assert empty.token.shape == (0,)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    k=st.integers(1, 3),
    spare=st.integers(0, 1),
    sharp=st.sampled_from([0.0, 1.0, 30.0]),
    sweeps=st.sampled_from([1, 50]),
)
def test_the_cap_always_holds(lengths, k, spare, sharp, sweeps):
    mask = torch.arange(12) < torch.tensor(lengths).unsqueeze(1)
    config = ExpertChoiceRouter(k, cap=k + spare, sweeps=sweeps)
    slots = 12 * k // 4
    router = router_of(config, slots=slots)
    with torch.no_grad():
        router.weight.mul_(sharp)
    assignment, stats = router(hidden(len(lengths), 12), RoutingContext.of(mask))
    held = torch.bincount(assignment.token[assignment.live], minlength=mask.numel())
    assert held.max() <= config.cap
    assert (stats.assigned <= mask.sum(1).clamp(max=slots).unsqueeze(1)).all()


def test_a_cap_spreads_the_experts():
    """64 tokens, 8 experts of 8 slots: some tokens have several experts, so others have none."""
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    free = route(logits, slots=8, config=ExpertChoiceRouter(1))
    capped = route(logits, slots=8, config=ExpertChoiceRouter(1, cap=1, strength=0.03))
    served, capped_served = ({token for token, _, _ in entries_of(a)} for a in (free, capped))
    assert len(entries_of(free)) == 64 and len(served) < 55
    # what the soft solution puts beyond the cap is dropped: nine in ten slots are filled
    assert len(entries_of(capped)) == len(capped_served) > 57


def test_capped_shares_are_the_solution():
    """The conditions that mark the optimum: sums, bounds, and one Lagrange multiplier for each.

    ``strength * log A - S`` is u_e + w_t wherever A < 1, with w_t = 0 for a token below the cap.
    """
    generator = torch.Generator().manual_seed(1)
    scores = torch.softmax(2 * torch.randn(24, 4, generator=generator), 1)
    context = RoutingContext.of(full_mask(1, 24))
    cap, strength, slots = 2, 0.1, 10
    shares = capped_shares(
        scores, context, slots=slots, cap=cap, strength=strength, sweeps=2000
    ).double()
    assert shares.max() <= 1 and shares.min() > 0
    assert shares.sum(0).tolist() == pytest.approx([slots] * 4, abs=1e-4)
    assert shares.sum(1).max() <= cap + 1e-4
    bound = shares.sum(1) > cap - 1e-4
    inner = shares < 1 - 1e-6
    assert 0 < int(bound.sum()) < 24 and not inner.all()
    multiplier = strength * shares.log() - scores
    for expert in range(4):
        free = multiplier[inner[:, expert] & ~bound, expert]
        assert float(free.max() - free.min()) < 1e-4
        level = free.mean()
        # a token at the cap pays, a share held at 1 would be larger
        assert (multiplier[inner[:, expert] & bound, expert] <= level + 1e-4).all()
        assert (multiplier[~inner[:, expert] & ~bound, expert] <= level + 1e-4).all()


def test_capped_shares_of_a_group_do_not_depend_on_its_neighbours():
    scores = torch.softmax(hidden(3, 8, 4).flatten(0, 1), 1)
    context = ragged_context(3, 8, 2)
    settings = {"slots": 4, "cap": 2, "strength": 0.1, "sweeps": 50}
    whole = capped_shares(scores, context, **settings).view(3, 8, 4)
    for row in range(3):
        alone = RoutingContext.of(context.mask[row : row + 1, : 8 - 2 * row])
        found = capped_shares(scores.view(3, 8, 4)[row, : 8 - 2 * row], alone, **settings)
        assert torch.allclose(found, whole[row, : 8 - 2 * row], atol=1e-6)
        assert not whole[row, 8 - 2 * row :].any()


def test_the_operator_keeps_torch_library_s_rules():
    context = ragged_context(2, 8)
    arguments = (context.group.flatten(), context.mask.flatten(), 2, 4, 2, 0.1, 5)
    scores = torch.softmax(hidden(2, 8, 4).flatten(0, 1), 1)
    torch.library.opcheck(torch.ops.turnout.capped_shares.default, (scores, *arguments))


@pytest.mark.parametrize("config", [ExpertChoiceRouter(2), ExpertChoiceRouter(1, cap=2)])
def test_a_record_is_replayed(config):
    layer = small_layer(config).train()
    x, context = hidden(3, 8), ragged_context(3, 8)
    y, stats, decision = layer(x, context)
    assert decision.expert.shape == (3, 8, config.cap or 4)
    # the best expert of a token stands in the first column, and none behind a free place
    taken = decision.expert >= 0
    assert torch.equal(taken, taken.long().cummin(2).values.bool())
    assert (decision.weight.diff(dim=2) <= 0).all()
    again = layer(x, replace(context, replay={"moe": LayerDecision.of(decision.expert)}))
    assert torch.allclose(again[0], y, atol=1e-6)
    assert torch.equal(again[2].expert, decision.expert)
    for count in ("assigned", "first_choice"):
        assert torch.equal(getattr(again[1].router, count), getattr(stats.router, count))
    # of another engine, whose columns are in any order: the same routing and first choices
    shuffled = layer(x, replace(context, replay={"moe": LayerDecision.of(decision.expert.flip(2))}))
    assert torch.allclose(shuffled[0], y, atol=1e-6)
    assert torch.equal(shuffled[1].router.first_choice, stats.router.first_choice)
    (grad,) = torch.autograd.grad(again[0].square().sum(), [layer.router.weight])
    assert float(grad.abs().max()) > 0


def test_a_record_is_replayed_where_a_group_is_read_in_parts():
    layer = small_layer(ExpertChoiceRouter()).eval()
    x, context = hidden(1, 8), RoutingContext.of(full_mask(1, 8))
    y, _, decision = layer(x, context)
    part = replace(RoutingContext.of(full_mask(1, 3)), partial=True)
    with pytest.raises(UserError, match=r"moe.router.kind = 'expert_choice': .* in parts") as error:
        layer(x[:, :3], part)
    assert "\n" not in str(error.value)
    replayed = layer(
        x[:, :3], replace(part, replay={"moe": LayerDecision.of(decision.expert[:, :3])})
    )
    assert torch.allclose(replayed[0], y[:, :3], atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ExpertChoiceRouter(0), "router.k = 0: must be at least 1"),
        (
            lambda: ExpertChoiceRouter(2, cap=1),
            "router.cap = 1: must be at least 2, the experts a token has on average (router.k); "
            "or none, which leaves the number of experts open",
        ),
        (lambda: ExpertChoiceRouter(strength=0.0), "router.strength = 0.0: must be above 0"),
        (lambda: ExpertChoiceRouter(sweeps=0), "router.sweeps = 0: must be at least 1"),
        (
            lambda: MoEConfig(4, ExpertChoiceRouter(2, cap=5)),
            "moe.num_experts = 4: must be at least 5, the choices of the router (expert_choice); "
            "add experts or let the router choose fewer",
        ),
        (
            lambda: build_layer(
                MoEConfig(4, ExpertChoiceRouter()), d_model=8, feed_forward=FeedForwardConfig(8)
            ),
            "group_tokens = None: must be the configured tokens of a routing group, which say how "
            "many an expert takes; give group_tokens, or take another router than expert_choice",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert str(error.value) == message


def test_slots_follow_the_configured_tokens_and_the_rounding():
    # k n / E = 2 * 10 / 4 = 5 slots; a group of two rows has twice the tokens
    layer = small_layer(ExpertChoiceRouter(2), group_tokens=10)
    assert layer.router.slots == 5
    ceil = small_layer(ExpertChoiceRouter(1), group_tokens=10, capacity_rounding="ceil")
    assert ceil.router.slots == 3
    both = small_layer(ExpertChoiceRouter(2), group_tokens=20, group=RowsGroup(2))
    context = RoutingContext.build(full_mask(2, 10), rows=2)
    assert both(hidden(2, 10), context)[1].kept.tolist() == [[10] * 4]
