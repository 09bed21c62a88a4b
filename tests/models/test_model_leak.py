"""A sparse decoder with a capacity reads no future: neither logits nor decisions move."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import GLAM, LENGTH, MODERN, VOCABULARY, batch_of, part
from turnout import models
from turnout.config.moe import MoEConfig
from turnout.config.routers import InputJitter, TopKRouter
from turnout.data.batch import Batch, Stream
from turnout.models.base import Model

DRAWS = 10


def row(length: int, seed: int) -> Stream:
    ids = torch.randint(1, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(seed))
    position = torch.arange(length).expand(2, length)
    return Stream(ids, ids > 0, torch.ones_like(ids), position)


def moved(model: Model, whole: Batch, other: Batch, end: int) -> bool:
    """Whether anything before ``end`` differs between two passes."""
    one, two = model(whole, routing=True), model(other, routing=True)
    assert one.routing is not None and two.routing is not None
    for first, second in zip(one.routing.layers, two.routing.layers, strict=True):
        if not torch.equal(first.expert[:, :end], second.expert[:, :end]):
            return True
    scale = float(one.hidden.abs().max())
    return float((one.hidden[:, :end] - two.hidden[:, :end]).abs().max()) > 1e-5 * scale


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("family", [MODERN, GLAM], ids=["rotary", "relative bias"])
@torch.no_grad()
def test_changed_cut_and_appended_tokens(family, k, factor):
    moe = MoEConfig(
        4, TopKRouter(k, "raw", InputJitter(0.1)), train_capacity_factor=factor, min_capacity=1
    )
    model = models.build(replace(family, moe=moe, num_layers=2))
    model.init_weights(0)
    model.train()
    for draw in range(DRAWS):
        text = row(LENGTH + 1, draw)
        t = 1 + draw % (LENGTH - 1)
        whole = batch_of(part(text, 0, LENGTH))
        ids = whole.decoder.ids.clone()
        ids[:, t] = 1 + ids[:, t] % (VOCABULARY - 1)
        changed = batch_of(replace(whole.decoder, ids=ids))
        assert not moved(model, whole, changed, t)
        assert not moved(model, whole, batch_of(part(text, 0, t + 1)), t + 1)
        assert not moved(model, whole, batch_of(text), LENGTH)
