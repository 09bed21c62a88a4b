"""Token choice under bad input: ties, huge logits, one token, two experts, all of them, padding."""

from dataclasses import replace

import pytest
import torch

from tests.moe.cases import full_mask, hidden, ragged_context, relative_error, small_layer
from turnout.config.errors import UserError
from turnout.config.routers import (
    DenseToSparseRouter,
    DSelectKRouter,
    NullExpertsRouter,
    PrototypesRouter,
    SigmoidTopKRouter,
    TopKRouter,
    TopPRouter,
)
from turnout.moe import LayerDecision, RoutingContext

FORMS = {
    "sigmoid": SigmoidTopKRouter(2),
    "sigmoid_groups": SigmoidTopKRouter(2, 0.0, expert_groups=2, groups_kept=1),
    "sigmoid_raw": SigmoidTopKRouter(1, weights="raw"),
    "sigmoid_all": SigmoidTopKRouter(4),
    "softmax_groups": TopKRouter(2, expert_groups=2, groups_kept=1, scale=16.0),
    "prototypes": PrototypesRouter(2),
    "top_p": TopPRouter(0.7, 4),
    "top_p_renormalised": TopPRouter(0.7, 2, "renormalised"),
    "null_experts": NullExpertsRouter(2, nulls=3),
    "dense_to_sparse": DenseToSparseRouter(),
    "dselect": DSelectKRouter(2),
}


def run(layer, x, context):
    """Output, statistics, decision, and the gradients of all of their sums."""
    x = x.clone().requires_grad_()
    y, stats, decision = layer(x, context)
    router = stats.router
    loss = y.square().sum() + router.z.sum() * 1e-6 + router.probability.square().sum()
    loss = loss + router.entropy.sum()
    return y.detach(), stats, decision, torch.autograd.grad(loss, [x, *layer.parameters()])


@pytest.mark.parametrize("name", FORMS)
def test_huge_logits(name):
    layer = small_layer(FORMS[name]).train()
    with torch.no_grad():
        for weight in layer.router.parameters():
            weight.mul_(1e4)
    y, stats, decision, grads = run(layer, hidden(2, 8), ragged_context(2, 8))
    assert torch.isfinite(y).all() and all(torch.isfinite(grad).all() for grad in grads)
    assert torch.isfinite(stats.router.z).all() and torch.isfinite(stats.router.entropy).all()
    assert stats.router.probability.sum(1).tolist() == pytest.approx([8.0, 5.0])
    assert torch.isfinite(decision.log_probability).all()


@pytest.mark.parametrize("name", FORMS)
def test_probabilities_sum_to_the_tokens(name):
    layer = small_layer(FORMS[name]).train()
    stats = layer(hidden(3, 8), ragged_context(3, 8))[1].router
    assert stats.probability.sum(1).tolist() == pytest.approx([8.0, 5.0, 2.0])


@pytest.mark.parametrize("name", FORMS)
def test_ties_go_to_the_lowest_expert_for_every_token(name):
    layer = small_layer(FORMS[name]).eval()
    with torch.no_grad():
        for weight in layer.router.parameters():
            weight.zero_()
    _, _, decision, grads = run(layer, hidden(1, 6), RoutingContext.of(full_mask(1, 6)))
    expert = decision.expert[0]
    assert torch.equal(expert, expert[:1].expand_as(expert))
    # the second prototype begins with expert 2
    expected = [0, 2] if name == "prototypes" else [0, 1, 2, 3][: expert.shape[1]]
    # .25 a probability: the third makes .75
    expected = [0, 1, 2, -1] if name == "top_p" else expected
    assert expert[0].tolist() == expected
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("experts", [2, 4])
@pytest.mark.parametrize("name", ["sigmoid", "top_p_renormalised", "dense_to_sparse", "dselect"])
def test_two_experts_and_one_token(name, experts):
    layer = small_layer(FORMS[name], num_experts=experts, train_capacity_factor=1.0).train()
    _, stats, _, grads = run(layer, hidden(1, 1), RoutingContext.of(full_mask(1, 1)))
    assert int(stats.router.tokens) == 1 and int(stats.unrouted) == 0
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", FORMS)
def test_padding_on_either_side_moves_no_decision(name):
    layer = small_layer(FORMS[name]).train()  # with noise, where there is any
    tokens = hidden(1, 5)
    found = []
    for before, after in ((0, 0), (3, 0), (0, 4), (2, 6)):
        x = torch.full((1, before + 5 + after, 8), torch.nan)
        x[:, before : before + 5] = tokens
        mask = torch.zeros(1, x.shape[1], dtype=torch.bool)
        mask[:, before : before + 5] = True
        _, stats, decision = layer(x, RoutingContext.build(mask, keys=torch.tensor([5])))
        inner = slice(before, before + 5)
        assert (decision.expert[:, :before] == -1).all()
        assert (decision.expert[:, before + 5 :] == -1).all()
        found.append((decision.expert[:, inner], decision.weight[:, inner], stats.router))
    for expert, weight, stats in found[1:]:
        assert torch.equal(expert, found[0][0])
        assert relative_error(weight, found[0][1]) < 1e-6
        assert torch.equal(stats.assigned, found[0][2].assigned)
        assert torch.allclose(stats.entropy, found[0][2].entropy)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_a_replayed_record_gives_what_was_recorded(name, training):
    layer = small_layer(FORMS[name]).train(training)
    x, context = hidden(3, 8), ragged_context(3, 8)
    expected = run(layer, x, context)
    replay = replace(context, replay={"moe": expected[2]})
    found = run(layer, x, replay)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2].expert, expected[2].expert)
    for one, two in zip(found[3], expected[3], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", FORMS)
def test_a_replayed_record_decides_alone(name):
    """Another model's experts are taken as they are, nothing is declined, and weights follow."""
    source, layer = (small_layer(FORMS[name], seed=seed).train() for seed in (0, 1))
    x, context = hidden(2, 8), ragged_context(2, 8)
    recorded = source(x, context)[2].expert
    assert not torch.equal(layer(x, context)[2].expert, recorded)
    _, _, decision, grads = run(
        layer, x, replace(context, replay={"moe": LayerDecision.of(recorded)})
    )
    assert torch.equal(decision.expert, recorded)
    assert any(grad.abs().max() > 0 for grad in grads[1 : 1 + len(list(layer.router.parameters()))])
    wrong = torch.zeros(2, 8, recorded.shape[2] + 1, dtype=torch.int64)
    with pytest.raises(UserError, match="of another model or of other text"):
        layer(x, replace(context, replay={"moe": LayerDecision.of(wrong)}))


@pytest.mark.parametrize("name", FORMS)
def test_no_row_at_all(name):
    layer = small_layer(FORMS[name], train_capacity_factor=1.0).train()
    y, stats, decision = layer(torch.zeros(0, 8, 8), ragged_context(0, 8))
    assert y.shape == (0, 8, 8) and stats.kept.shape == (0, 4)
    assert decision.expert.shape == (0, 8, layer.router.choices)
