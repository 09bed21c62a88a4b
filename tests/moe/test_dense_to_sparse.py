"""Dense to sparse: the temperature, what it leaves, and what evaluation sees."""

import math
from dataclasses import replace

import pytest
import torch

from tests.moe.cases import full_mask, hidden, small_layer
from tests.moe.test_routers import LOG, router_for
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig
from turnout.config.routers import DenseToSparseRouter
from turnout.moe import RoutingContext
from turnout.moe.routers.dense_to_sparse import temperature

QUIET = DenseToSparseRouter(start=2.0, end=0.5, anneal=0.5, threshold=0.25, gumbel=False)


def at(progress, tokens=1):
    return RoutingContext.build(full_mask(1, tokens), progress=progress)


def route(config, progress, training=True, logits=LOG):
    router = router_for(config, torch.eye(3)).train(training)
    return router(torch.tensor([logits]), at(progress, len(logits)))


def test_the_logarithm_of_the_temperature_falls_evenly():
    for progress, expected in ((0.0, 2.0), (0.25, 1.0), (0.5, 0.5), (1.0, 0.5)):
        found = temperature(QUIET, torch.tensor(progress))
        assert found.item() == pytest.approx(expected)


def test_all_then_two_then_one_expert():
    # t = 2, roots of .5 .3 .2: .7071 .5477 .4472 over 1.7020, all above .25
    # t = 1: .5 .3 .2; t = .5, squares: .25 .09 .04 over .38
    for progress, weights in (
        (0.0, [0.4154, 0.3218, 0.2627]),
        (0.25, [0.5, 0.3, 0.0]),
        (0.5, [0.6579, 0.0, 0.0]),
    ):
        assignment, _ = route(QUIET, progress)
        assert assignment.expert.tolist() == [0, 1, 2]
        assert assignment.weight.tolist() == pytest.approx(weights, abs=1e-4)
        assert assignment.live.tolist() == [weight > 0 for weight in weights]


def test_losses_see_the_probabilities_at_the_temperature_and_the_logits_without():
    _, stats = route(QUIET, 0.5)
    assert stats.probability[0].tolist() == pytest.approx([0.6579, 0.2368, 0.1053], abs=1e-4)
    _, stats = route(QUIET, 0.5, logits=[[2.0, 2.0, 2.0]])
    assert stats.z.item() == pytest.approx((2 + math.log(3)) ** 2)


def test_the_best_is_taken_even_at_the_threshold():
    # In float32 the third of a probability does not exceed a threshold of a third less 1e-9.
    config = replace(QUIET, threshold=1 / 3 - 1e-9)
    for training in (True, False):
        assignment, _ = route(config, 0.0, training, [[0.0] * 3])
        assert assignment.live.tolist() == [True, False, False]


def test_evaluation_is_the_end_whatever_the_progress():
    config = replace(QUIET, gumbel=True)
    results = [route(config, progress, training=False)[0] for progress in (0.0, 0.3, 1.0)]
    assert all(torch.equal(found.weight, results[0].weight) for found in results)
    end = route(QUIET, 1.0)[0]
    assert torch.allclose(results[0].weight, end.weight)


def test_the_noise_samples_the_softmax_at_every_temperature():
    # The best of logits plus Gumbel noise is drawn from their softmax; dividing moves no maximum.
    tokens = 4000
    for progress in (0.0, 1.0):
        assignment, _ = route(replace(QUIET, gumbel=True), progress, logits=LOG * tokens)
        first = assignment.expert.view(tokens, 3)[:, 0]
        share = torch.bincount(first, minlength=3) / tokens
        for found, expected in zip(share.tolist(), (0.5, 0.3, 0.2), strict=True):
            assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / tokens)


def test_it_becomes_sparse():
    layer = small_layer(DenseToSparseRouter(), num_experts=8).train()
    x = hidden(1, 256)
    taken = [
        int(layer.router(x, at(progress, 256))[1].assigned.sum()) / 256
        for progress in (0.0, 0.25, 0.5)
    ]
    assert 7 < taken[0] <= 8 and taken[0] > taken[1] > taken[2] and taken[2] < 2


def test_capacity_is_a_share_of_all_assignments():
    # 1.25 * 8 * 16 / 8 slots, of which 16 can be used; .25 leaves 4
    config = MoEConfig(8, DenseToSparseRouter())
    assert config.expert_capacity(1.25, 16) == 16 and config.expert_capacity(0.25, 16) == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DenseToSparseRouter(end=0.0), "router.end = 0.0: must be above 0"),
        (lambda: DenseToSparseRouter(start=0.05), "router.start = 0.05: must be at least router.e"),
        (lambda: DenseToSparseRouter(anneal=0.0), "router.anneal = 0.0: must be above 0"),
        (lambda: DenseToSparseRouter(threshold=0.0), "router.threshold = 0.0: must be between"),
        (
            lambda: MoEConfig(4, DenseToSparseRouter(threshold=0.25)),
            "router.threshold = 0.25: must be below 1 / 4",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
