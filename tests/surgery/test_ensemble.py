"""The domain posterior by hand, and against a loop over tokens."""

import math
from dataclasses import replace

import pytest
import torch

from tests.surgery.models import built, decoder, two_stacks
from turnout.config.errors import UserError
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.train import RunConfig
from turnout.surgery.ensemble import Ensemble
from turnout.surgery.rows import random_rows


def batch_of(config):
    span = config.kind == "encoder_decoder"
    (batch,) = random_rows(RunConfig(config, SpanConfig() if span else CausalConfig())).batches
    return batch


def log_probabilities(model, batch):
    with torch.no_grad():
        output = model(batch)
        return output.head.logits(output.hidden).double().log_softmax(-1)


@pytest.mark.parametrize("config", [decoder(), two_stacks()], ids=["one stack", "two stacks"])
def test_against_a_loop(config):
    models = [built(config, seed) for seed in range(3)]
    batch = batch_of(config)
    prior = [2.0, 1.0, 1.0]
    ensemble = Ensemble(models, prior)
    mixed, posterior = ensemble.log_probabilities(batch), ensemble.posterior(batch)
    nats = ensemble.nats(batch)
    each = [log_probabilities(model, batch) for model in models]
    for row in range(4):
        weights = [p / 4 for p in prior]
        for place in range(48):
            assert posterior[:, row, place].tolist() == pytest.approx(weights, rel=1e-4, abs=1e-9)
            p = sum(w * e[row, place].exp() for w, e in zip(weights, each, strict=True))
            assert torch.allclose(mixed[row, place].exp(), p, rtol=1e-4, atol=1e-9)
            target = int(batch.targets[row, place])
            assert float(nats[-1, row, place]) == pytest.approx(-math.log(p[target]), rel=1e-4)
            even = sum(
                q / 4 * e[row, place, target].exp() for q, e in zip(prior, each, strict=True)
            )
            assert float(nats[-2, row, place]) == pytest.approx(-math.log(even), rel=1e-4)
            read = [
                w * float(e[row, place, target].exp()) for w, e in zip(weights, each, strict=True)
            ]
            weights = [r / sum(read) for r in read]
    assert torch.allclose(mixed.exp().sum(-1), torch.ones(4, 48, dtype=torch.float64))


def test_a_segment_begins_with_the_prior_and_what_has_no_target_tells_nothing():
    config = decoder()
    models = [built(config, seed) for seed in range(2)]
    batch = batch_of(config)
    position = torch.cat([torch.arange(20), torch.arange(28)]).expand(4, 48)
    segment = torch.cat([torch.full((20,), 1), torch.full((28,), 2)]).expand(4, 48)
    stream = replace(batch.decoder, position=position, segment=segment, max_segments=2)
    unread = batch.target_mask.clone()
    unread[:, 30:32] = False
    packed = replace(batch, decoder=stream, target_mask=unread)
    found = Ensemble(models).posterior(packed)
    half = torch.full((2, 4), 0.5, dtype=torch.float64)
    assert torch.allclose(found[:, :, 0], half) and torch.allclose(found[:, :, 20], half)
    assert not torch.allclose(found[:, :, 19], half)
    assert torch.equal(found[:, :, 30], found[:, :, 31])
    assert torch.equal(found[:, :, 30], found[:, :, 32])
    assert not torch.equal(found[:, :, 32], found[:, :, 33])


def test_the_model_that_knows_the_text_is_believed():
    """A model whose head says the right token loudly: after a few tokens the posterior is its."""
    config = decoder()
    one, other = built(config, 0), built(config, 1)
    batch = batch_of(config)
    ensemble = Ensemble([one, other])
    nats = ensemble.nats(batch)
    better = int(nats[1].sum() < nats[0].sum())
    gap = abs(float(nats[0].sum() - nats[1].sum()))
    assert gap > 1
    # Never worse than the better model by more than ln 2 a row: the price of the prior.
    assert float(nats[-1].sum()) <= float(nats[better].sum()) + 4 * math.log(2) + 1e-6


def test_what_cannot_be_mixed_is_one_line():
    config = decoder()
    with pytest.raises(UserError, match="of one vocabulary"):
        Ensemble([built(config), built(replace(config, vocab_size=40))])
    with pytest.raises(UserError, match="of one vocabulary"):
        Ensemble([])
    for prior in ([1.0], [1.0, 0.0], [1.0, math.inf]):
        with pytest.raises(UserError, match="must be 2 numbers above 0"):
            Ensemble([built(config)] * 2, prior)
