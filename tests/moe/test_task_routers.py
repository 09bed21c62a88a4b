"""Routing by task and by sentence: logits of a label, of a mean, and of a task's own matrix."""

import math
from dataclasses import replace

import pytest
import torch

from tests.moe.cases import ROUTERS, full_mask, hidden, ragged_context, small_layer
from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import (
    MultiGateRouter,
    SentenceRouter,
    SwitchRouter,
    TaskRouter,
    TopKRouter,
)
from turnout.config.routers.base import router_flops
from turnout.moe import LayerDecision, RouterShape, RoutingContext, build_layer, build_router


def router_for(config, weight=None, num_experts=3, d_model=3):
    router = build_router(config, RouterShape(d_model, num_experts))
    router.init_weights(torch.Generator().manual_seed(0))
    if weight is not None:
        with torch.no_grad():
            router.weight.copy_(torch.as_tensor(weight))
    return router


def labelled(labels, length):
    return RoutingContext.build(full_mask(len(labels), length), labels=torch.tensor(labels))


LOGS = [
    [math.log(0.5), math.log(0.3), math.log(0.2)],
    [math.log(0.1), math.log(0.2), math.log(0.7)],
]


def test_a_task_routes_all_its_tokens_by_its_own_logits():
    router = router_for(TaskRouter(2, k=2), LOGS)
    assignment, stats = router(hidden(2, 2, 3), labelled([1, 0], 2))
    assert assignment.expert.tolist() == [2, 1, 2, 1, 0, 1, 0, 1]
    assert assignment.weight.tolist() == pytest.approx([0.7, 0.2, 0.7, 0.2, 0.5, 0.3, 0.5, 0.3])
    # two tokens a row
    assert stats.probability[0].tolist() == pytest.approx([0.2, 0.4, 1.4])
    assert stats.z.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_only_the_task_at_hand_learns():
    router = router_for(TaskRouter(3, k=1))
    assignment, _ = router(hidden(2, 2, 3), labelled([2, 0], 2))
    (grad,) = torch.autograd.grad(assignment.weight.sum(), [router.weight])
    assert [bool(row.any()) for row in grad] == [True, False, True]


def test_the_table_of_tasks_starts_with_the_logits_of_a_switch_router():
    # a Switch router on unit normal states: logits of deviation sqrt(s), s = .1
    router = build_router(TaskRouter(64), RouterShape(16, 64))
    router.init_weights(torch.Generator().manual_seed(0))
    assert float(router.weight.detach().std()) == pytest.approx(math.sqrt(0.1), rel=0.05)
    gates = build_router(MultiGateRouter(4), RouterShape(64, 32))
    gates.init_weights(torch.Generator().manual_seed(0))
    assert float(gates.weight.detach().std()) == pytest.approx(math.sqrt(0.1 / 64), rel=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_multi_gate_is_a_top_k_router_a_task(training):
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    gates = router_for(MultiGateRouter(3, k=2), weight, 5, 4).train(training)
    x, labels = hidden(4, 6, 4), [2, 0, 1, 2]
    together, _ = gates(x, labelled(labels, 6))
    for row, label in enumerate(labels):
        alone = router_for(TopKRouter(2, "raw"), weight[label], 5, 4).train(training)
        expected, _ = alone(x[row : row + 1], RoutingContext.of(full_mask(1, 6)))
        here = slice(12 * row, 12 * row + 12)
        assert torch.equal(together.expert[here], expected.expert)
        assert torch.allclose(together.weight[here], expected.weight, atol=1e-6)


def test_multi_gate_with_all_experts_is_the_papers_softmax():
    router = router_for(MultiGateRouter(1, k=3), torch.eye(3).unsqueeze(0))
    x = torch.tensor([LOGS])
    assignment, _ = router(x, labelled([0], 2))
    assert assignment.expert.tolist() == [0, 1, 2, 2, 1, 0]
    assert assignment.weight.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.7, 0.2, 0.1])


@pytest.mark.parametrize("config", [TaskRouter(2), MultiGateRouter(2)])
def test_labels_must_be_there_and_known(config):
    router = router_for(config)
    with pytest.raises(UserError, match=f"{config.kind!r}: reads a label of each row"):
        router(hidden(1, 2, 3), RoutingContext.of(full_mask(1, 2)))
    with pytest.raises(UserError, match=f"{config.kind!r}: a row has label 2, .* labels 0 to 1"):
        router(hidden(2, 2, 3), labelled([0, 2], 2))


def test_a_sentence_is_routed_by_its_mean():
    # Row 0: (1, 0, 0) and (0, 2, 0), mean (.5, 1, 0); padding does not count. Row 1: (0, 0, 3).
    x = torch.tensor(
        [[[1.0, 0, 0], [0, 2.0, 0], [99, 99, 99]], [[0, 0, 3.0], [9, 9, 9], [9, 9, 9]]]
    )
    mask = torch.tensor([[True, True, False], [True, False, False]])
    router = router_for(SentenceRouter(1), torch.eye(3))
    assignment, stats = router(x, RoutingContext.of(mask))
    assert assignment.expert[:2].tolist() == [1, 1] and assignment.expert[3] == 2
    total = math.exp(0.5) + math.exp(1) + 1
    expected = [math.e / total] * 2 + [0.0, math.exp(3) / (math.exp(3) + 2), 0.0, 0.0]
    assert assignment.weight.tolist() == pytest.approx(expected)
    assert stats.assigned.tolist() == [[0, 2, 0], [0, 0, 1]]


def test_a_sentence_may_be_a_document_or_several_rows():
    x, segment = hidden(2, 4, 3), torch.tensor([[1, 1, 2, 2], [1, 1, 1, 0]])
    router = router_for(SentenceRouter(1), torch.eye(3))
    documents = RoutingContext.documents(segment > 0, segment, 2)
    expert = router(x, documents)[0].expert.view(2, 4)
    parts = [x[0, :2], x[0, 2:], x[1, :3]]
    expected = [int(part.mean(0).argmax()) for part in parts]
    assert expert[0].tolist() == [expected[0]] * 2 + [expected[1]] * 2
    assert expert[1, :3].tolist() == [expected[2]] * 3
    both = RoutingContext.build(full_mask(2, 4), rows=2)
    assert set(router(x, both)[0].expert.tolist()) == {int(x.mean((0, 1)).argmax())}


def test_a_sentence_reads_ahead():
    layer = small_layer(SentenceRouter(2))
    assert layer.router.couples == layer.router.couples_in_evaluation == "group"
    assert not layer.causal
    config = MoEConfig(4, SentenceRouter(2), train_capacity_factor=None)
    with pytest.raises(ConfigError, match=r"moe.router.kind = 'sentence': .* later ones"):
        build_layer(config, d_model=8, feed_forward=FeedForwardConfig(8), decoder=True)
    context = replace(RoutingContext.of(full_mask(1, 4)), partial=True)
    with pytest.raises(UserError, match="'sentence': its mean is over a whole routing group"):
        layer.eval()(hidden(1, 4), context)


FORMS = ["task", "sentence", "multi_gate"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_a_record_replays_with_gradient_to_the_router(name, training):
    layer, x = small_layer(ROUTERS[name]).train(training), hidden(2, 8)
    context = ragged_context(2, 8)
    y, _, decision = layer(x, context)
    moved = (torch.arange(8).view(1, 8, 1) % 2 == 1) & (decision.expert >= 0)
    other = torch.where(moved, (decision.expert + 1) % 4, decision.expert)
    assert torch.equal(layer(x, replace(context, chosen=decision))[0], y)
    found, _, again = layer(x, replace(context, chosen=LayerDecision.of(other)))
    assert torch.equal(again.expert, other)
    (grad,) = torch.autograd.grad(found.square().sum(), [layer.router.weight])
    assert bool(grad.any())


@pytest.mark.parametrize("name", FORMS)
def test_huge_logits_stay_finite(name):
    layer = small_layer(ROUTERS[name]).train()
    with torch.no_grad():
        layer.router.weight.mul_(1e4)
    y, stats, _ = layer(hidden(2, 8), ragged_context(2, 8))
    loss = y.square().sum() + stats.router.z.sum() + stats.router.entropy.sum()
    for value in (y, *torch.autograd.grad(loss, list(layer.parameters()))):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("config", [TaskRouter(2, k=2), MultiGateRouter(2, k=2), SentenceRouter(2)])
def test_alike_tokens_and_few_experts_go_to_the_lowest(config):
    layer = small_layer(config, num_experts=2)
    with torch.no_grad():
        layer.router.weight.zero_()
    context = ragged_context(2, 5)
    assignment, _ = layer.router(torch.ones(2, 5, 8), context)
    assert assignment.expert.view(-1, 2).tolist() == [[0, 1]] * 10
    live = context.mask.flatten()
    assert assignment.weight.view(-1, 2)[live].tolist() == [[0.5, 0.5]] * int(live.sum())


@pytest.mark.parametrize(
    ("config", "flops"),
    # a token of width 8 and 4 experts: 2 * 8 * 4 = 64
    [
        (SwitchRouter(), 64),
        (MultiGateRouter(5), 64),
        (TaskRouter(5), 0),
        (SentenceRouter(), 0),
    ],
)
def test_arithmetic_of_a_token(config, flops):
    assert router_flops(config, 8, 4) == flops


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: TaskRouter(0), "router.tasks"),
        (lambda: TaskRouter(2, k=0), "router.k"),
        (lambda: MultiGateRouter(0), "router.tasks"),
        (lambda: MultiGateRouter(2, k=0), "router.k"),
        (lambda: SentenceRouter(0), "router.k"),
        (lambda: MoEConfig(4, TaskRouter(2, k=5)), "moe.num_experts"),
    ],
)
def test_configurations_refuse(build, field):
    with pytest.raises(ConfigError) as refused:
        build()
    assert refused.value.field == field
