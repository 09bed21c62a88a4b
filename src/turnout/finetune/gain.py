"""How much of what a teacher gains over a dense model its student keeps.

Axes: R rows of held-out text, M models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from turnout.config.errors import UserError
from turnout.data.batch import Batch
from turnout.evaluate.metrics.uncertainty import middle, resamplings
from turnout.models.base import Model
from turnout.models.modes import evaluating

DRAWS = 10_000


@dataclass(frozen=True)
class RowLoss:
    """One model on rows that it was not trained on: nats and targets of each."""

    nats: Float64[np.ndarray, " R"]
    targets: Float64[np.ndarray, " R"]

    @property
    def mean(self) -> float:
        """Nats a target."""
        return float(self.nats.sum() / self.targets.sum())


@dataclass(frozen=True)
class Kept:
    """A student beside its teacher and the dense model.

    Attributes:
        loss: the student's, in nats a target.
        share: ``(student - dense) / (teacher - dense)`` (Switch Transformers, 2101.03961, table 6).
        low, high: of the share, a 95% bootstrap interval over rows, the same for all three models.
        undecided: share of the draws in which the teacher is no better, which have no share.
    """

    loss: float
    share: float
    low: float
    high: float
    undecided: float


@torch.no_grad()
def row_loss(model: Model, batches: Sequence[Batch]) -> RowLoss:
    """The language loss of each row, in evaluation mode."""
    nats, targets = [], []
    with evaluating(model):
        for batch in batches:
            output = model(batch, observed=False)
            each = output.head.nats(output.hidden, batch.targets)
            nats.append(torch.where(batch.target_mask, each, 0.0).double().sum(1).numpy())
            targets.append(batch.target_mask.sum(1).double().numpy())
    return RowLoss(np.concatenate(nats), np.concatenate(targets))


def gain_kept(
    teacher: RowLoss, dense: RowLoss, students: Mapping[str, RowLoss], seed: int = 0
) -> dict[str, Kept]:
    """The share of the teacher's gain that each student keeps.

    Raises:
        UserError: the models read different rows, or the teacher is no better than the dense one.
    """
    for each in (dense, *students.values()):
        if not np.array_equal(each.targets, teacher.targets):
            raise UserError("the models read different held-out rows: evaluate all on one text")
    if teacher.mean >= dense.mean:
        raise UserError(
            f"the teacher ({teacher.mean:.4f} nats) is not better than the dense model "
            f"({dense.mean:.4f}): there is no gain to keep; train it longer, or with more experts"
        )
    return {name: _kept(teacher, dense, student, seed) for name, student in students.items()}


def _kept(teacher: RowLoss, dense: RowLoss, student: RowLoss, seed: int) -> Kept:
    share = (student.mean - dense.mean) / (teacher.mean - dense.mean)
    # Means over the same targets: the targets' number divides out of the share.
    better = np.stack([student.nats - dense.nats, teacher.nats - dense.nats], 1)
    draws = resamplings(len(better), seed, DRAWS)
    gained = np.concatenate([counts @ better for counts in draws])
    decided = gained[gained[:, 1] < 0]
    found = middle(decided[:, 0] / decided[:, 1])
    return Kept(student.mean, share, found.low, found.high, 1 - len(decided) / len(gained))
