"""Terms that routers bring along: the policy gradient of REINFORCE."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.moe.cases import full_mask, relative_error
from tests.objectives.cases import T5, RowsGroup, build, cut, run, sparse
from turnout.config.errors import ConfigError
from turnout.config.losses import LossConfig
from turnout.config.moe import Placement
from turnout.config.routers import ReinforceRouter, SwitchRouter, ThorRouter
from turnout.models.head import Head
from turnout.moe import RouterShape, RoutingContext, build_router
from turnout.objectives import LanguageObjective
from turnout.objectives.router_terms import advantage

OFF = LossConfig(balance=0.0, router_z=0.0)
ROUTER = "decoder.blocks.1.feed_forward.moe.router.weight"


def test_the_baseline_is_the_mean_of_the_others():
    reward = torch.tensor([[-1.0, -2.0, -3.0, -9.0], [-5.0, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    group = torch.tensor([[0] * 4, [1] * 4])
    # -1 - (-2 - 3) / 2 = 1.5; -2 - (-1 - 3) / 2 = 0; -3 - (-1 - 2) / 2 = -1.5; alone: 0
    expected = [[1.5, 0.0, -1.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert advantage(reward, mask, group, 3).tolist() == expected


def test_on_average_it_is_the_gradient_of_the_expected_reward():
    """A bandit: expert e pays pays[e]; J = sum_e p_e pays_e, dJ / dl_i = p_i (pays_i - J)."""
    pays, logits = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.3, 0.0, -0.2])
    router = build_router(ReinforceRouter(), RouterShape(3, 3)).train()
    with torch.no_grad():
        router.weight.copy_(torch.eye(3))
    x = logits.expand(1, 40_000, 3)
    context = RoutingContext.of(full_mask(1, 40_000))
    assignment, _ = router(x, context)
    reward = pays.index_select(0, assignment.expert).view(1, -1)
    found = advantage(reward, context.mask, context.group, 1)
    objective = (found * assignment.log_probability.view(1, -1)).mean()
    (gradient,) = torch.autograd.grad(objective, [router.weight])
    p = torch.softmax(logits, 0)
    by_logit = p * (pays - (p * pays).sum())
    expected = by_logit.unsqueeze(1) * logits  # l = W x, the same x for every token
    assert relative_error(gradient, expected) < 0.05  # 40,000 draws: a deviation of about 0.01


def router_gradient(coefficient: float) -> Tensor:
    model = build(sparse(ReinforceRouter(policy=coefficient), None, RowsGroup()))
    return run(model, OFF, cut(8)).gradients[ROUTER]


def test_nothing_but_the_policy_reaches_the_router():
    one, two = router_gradient(0.1), router_gradient(0.2)
    assert float(one.abs().max()) > 0
    assert relative_error(two, 2 * one) < 1e-5


def test_the_term_is_in_the_total():
    step = run(build(sparse(ReinforceRouter(policy=0.3), None, RowsGroup())), OFF, cut(8))
    assert step.terms["router_own"] != 0.0
    expected = step.terms["language"] + 0.3 * step.terms["router_own"]
    assert step.total == pytest.approx(expected, rel=1e-6)
    switch = run(build(sparse(SwitchRouter(), None, RowsGroup())), OFF, cut(8))
    assert switch.terms["router_own"] == 0.0


def test_an_encoder_has_no_reward():
    moe = sparse(ReinforceRouter(), None, RowsGroup())
    with pytest.raises(ConfigError, match=r"^model.moe.router.kind = 'reinforce': must be another"):
        build(moe, T5)


def test_a_router_for_a_decoder_without_a_sparse_layer_is_refused():
    """Of one layer none is the last of two: nothing would learn by the policy."""
    moe = replace(sparse(SwitchRouter(), None, RowsGroup()), decoder_router=ReinforceRouter())
    moe = replace(moe, placement=Placement(step=2))
    with pytest.raises(ConfigError, match=r"^model.moe.decoder_router = .*no layer of the decoder"):
        replace(T5, decoder_layers=1, moe=moe)


def test_a_policy_without_a_coefficient_is_refused():
    with pytest.raises(ConfigError, match=r"router.policy = 0.0: must be above 0; nothing else"):
        ReinforceRouter(policy=0.0)


def test_the_divergence_by_hand():
    # logits (ln 3, 0) and (0, 0): p = (3/4, 1/4), q = (1/2, 1/2);
    # 1/2 [(1/4) (ln 3/4 - ln 1/2) + (-1/4) (ln 1/4 - ln 1/2)] = 1/8 ln 3
    head = Head(torch.tensor([[1.0], [0.0]]))
    one, other = torch.full((1, 2, 1), math.log(3)), torch.zeros(1, 2, 1)
    mask = torch.tensor([[True, False]])
    assert float(head.divergence(one, other, mask)) == pytest.approx(math.log(3) / 8)
    assert float(head.divergence(one, one, mask)) == 0.0


def test_two_passes_of_thor():
    model = build(sparse(ThorRouter(consistency=2.5), None, RowsGroup()))
    one_pass = build(sparse(ThorRouter(consistency=0.0), None, RowsGroup()))
    two, one = run(model, OFF, cut(8)), run(one_pass, OFF, cut(8))
    assert two.terms["router_own"] > 0 and one.terms["router_own"] == 0.0
    assert two.terms["language"] != one.terms["language"]
    expected = two.terms["language"] + 2.5 * two.terms["router_own"]
    assert two.total == pytest.approx(expected, rel=1e-6)
    again = run(model, OFF, cut(2))
    assert again.total == pytest.approx(two.total, rel=1e-5)
    assert run(model.eval(), OFF, cut(8)).terms["router_own"] == 0.0


def two_routers(encoder, decoder) -> LanguageObjective:
    moe = replace(sparse(encoder, None, RowsGroup()), decoder_router=decoder)
    return LanguageObjective(OFF, replace(T5, moe=moe))


def test_a_term_of_the_encoders_router_counts():
    moe = replace(sparse(ThorRouter(), None, RowsGroup()), decoder_router=SwitchRouter())
    step = run(build(moe, T5), OFF, cut(8, encoder=True))
    assert step.terms["router_own"] > 0


def test_two_routers_with_terms_of_their_own_are_refused():
    with pytest.raises(ConfigError, match="'thor and reinforce': must be at most one router"):
        two_routers(ThorRouter(), ReinforceRouter())
    two_routers(ThorRouter(consistency=0.0), ReinforceRouter())
