"""How far a routing went: by hand on recorded decisions, and on models."""

from dataclasses import replace

import pytest
import torch

from tests.objectives.cases import build, cut, sparse
from turnout import models
from turnout.config.errors import UserError
from turnout.config.moe import RowsGroup
from turnout.config.routers import Top2Router
from turnout.finetune.drift import Tally, routing_drift


def test_shares_by_hand() -> None:
    tally = Tally(experts=2)
    # Four tokens and one of padding. Before: 0 0 1 1; after: 0 1 1 1, and a dropped choice last.
    before = torch.tensor([[[0], [0], [1], [1], [0]]])
    after = torch.tensor([[[0], [1], [1], [-1], [1]]])
    tally.add(before, after, torch.tensor([[True, True, True, True, False]]))
    found = tally.drift("layer")
    assert found.tokens == 4
    assert found.same == pytest.approx(2 / 4)  # tokens 0 and 2
    # Loads 1/2, 1/2 before; 1/3, 2/3 after: half of (1/6 + 1/6).
    assert found.moved == pytest.approx(1 / 6)
    assert found.entropy_before == pytest.approx(1.0)
    # 1/3 log2 3 + 2/3 log2 (3/2) = 0.918296.
    assert found.entropy_after == pytest.approx(0.918296, abs=1e-6)


def test_the_order_of_choices_does_not_count() -> None:
    tally = Tally(experts=4)
    before, after = torch.tensor([[[0, 3], [1, 2]]]), torch.tensor([[[3, 0], [2, 0]]])
    tally.add(before, after, torch.ones(1, 2, dtype=torch.bool))
    assert tally.drift("layer").same == pytest.approx(3 / 4)  # 0 and 3, and 2


def test_a_model_beside_itself_has_not_moved() -> None:
    model = build(sparse(Top2Router(), None, RowsGroup(1)))
    (found,) = routing_drift(model, model, cut(2))
    assert (found.same, found.moved) == (1.0, 0.0)
    assert found.tokens == sum(int(batch.decoder.mask.sum()) for batch in cut(2))
    assert model.training  # as it was


def test_another_router_moves_the_load() -> None:
    one, other = (build(sparse(Top2Router(), None, RowsGroup(1))) for _ in range(2))
    with torch.no_grad():
        for layer in other.sparse_layers().values():
            for weight in layer.router.parameters():
                weight.copy_(weight.flip(0))
    (found,) = routing_drift(one, other, cut(8))
    assert found.same < 1
    # Experts in another order: the load has moved, and is as uneven as before.
    assert found.entropy_before == pytest.approx(found.entropy_after)


def test_no_text_and_dense_models_say_nothing() -> None:
    model = build(sparse(Top2Router(), None, RowsGroup(1)))
    (found,) = routing_drift(model, model, [])
    assert (found.tokens, found.same, found.moved) == (0, 0.0, 0.0)
    dense = models.build(replace(model.config, moe=None))
    assert routing_drift(dense, dense, cut(8)) == ()


def test_models_of_other_layers_are_refused() -> None:
    model = build(sparse(Top2Router(), None, RowsGroup(1)))
    with pytest.raises(UserError, match="different sparse layers"):
        routing_drift(model, models.build(replace(model.config, moe=None)), cut(8))
