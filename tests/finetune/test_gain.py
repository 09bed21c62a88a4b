"""The share of a teacher's gain that a student keeps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.objectives.cases import build, cut, sparse
from turnout.config.errors import UserError
from turnout.config.moe import RowsGroup
from turnout.config.routers import SwitchRouter
from turnout.finetune.gain import RowLoss, gain_kept, row_loss


def losses(*nats: float) -> RowLoss:
    return RowLoss(np.array(nats), np.full(len(nats), 10.0))


def test_shares_by_hand() -> None:
    dense, teacher = losses(20, 20), losses(10, 18)
    kept = gain_kept(teacher, dense, {"a": losses(15, 19), "b": dense, "c": losses(22, 21)})
    # The teacher gains 10 + 2 = 12; a gains 5 + 1 = 6; c loses 2 + 1 = 3.
    assert kept["a"].share == pytest.approx(6 / 12)
    assert kept["a"].loss == pytest.approx(34 / 20)
    assert kept["b"].share == 0
    assert kept["c"].share == pytest.approx(-3 / 12)
    # Half of the gain in each row: half in every draw.
    assert (kept["a"].low, kept["a"].high) == (pytest.approx(0.5), pytest.approx(0.5))
    # Draws of c: both rows the first -2 / 10, both the second -1 / 2, else -3 / 12.
    assert (kept["c"].low, kept["c"].high) == (pytest.approx(-0.5), pytest.approx(-0.2))


def test_draws_without_a_gain_are_counted() -> None:
    # The teacher gains 10 in one row and loses 8 in the other: a draw of the second twice, one of
    # four, has no gain.
    kept = gain_kept(losses(10, 28), losses(20, 20), {"s": losses(15, 20)})
    assert kept["s"].undecided == pytest.approx(0.25, abs=0.02)


def test_intervals_are_seeded_and_narrow_with_rows() -> None:
    generator = np.random.default_rng(0)

    def width(rows: int) -> float:
        dense = RowLoss(generator.normal(20, 1, rows), np.full(rows, 10.0))
        teacher = RowLoss(dense.nats - generator.normal(5, 1, rows), dense.targets)
        student = RowLoss(dense.nats - generator.normal(2, 1, rows), dense.targets)
        found = gain_kept(teacher, dense, {"s": student}, seed=3)["s"]
        assert found == gain_kept(teacher, dense, {"s": student}, seed=3)["s"]
        assert found.low < found.share < found.high
        return found.high - found.low

    assert width(400) < width(16) / 2


def test_no_gain_and_other_rows_are_refused() -> None:
    with pytest.raises(UserError, match="is not better than the dense model"):
        gain_kept(losses(20.0), losses(20.0), {})
    other = RowLoss(np.array([1.0]), np.array([11.0]))
    with pytest.raises(UserError, match="different held-out rows"):
        gain_kept(losses(10.0), losses(20.0), {"s": other})


def test_rows_of_a_model_against_torch() -> None:
    model = build(sparse(SwitchRouter(), None, RowsGroup(1)))
    found = row_loss(model, cut(2))
    assert model.training
    model.eval()
    (batch,) = cut(8)
    output = model(batch)
    logits = output.head.logits(output.hidden).detach()
    each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    rows = (each.view_as(batch.targets) * batch.target_mask).sum(1)
    torch.testing.assert_close(torch.from_numpy(found.nats).float(), rows, rtol=1e-5, atol=1e-5)
    assert found.targets.tolist() == batch.target_mask.sum(1).tolist()
