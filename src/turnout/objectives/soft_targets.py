"""What a teacher predicts, as targets of a student.

Axes: B batch, S sequence, T targets that carry loss, C of them, a chunk, V vocabulary, K tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.head import Head, chunks
from turnout.models.outputs import ModelOutput


class SoftTargets(ABC):
    """The teacher's distributions over the next token, of the targets that carry loss, in order."""

    @abstractmethod
    def divergence(self, logits: Float[Tensor, "C V"], part: slice) -> Float[Tensor, " C"]:
        """``KL(p || q)`` in nats, times the squared temperature, of the student's logits for those
        targets; float32, with gradient to the logits."""


class Teacher(ABC):
    """Gives soft targets for the rows of a batch, without gradient."""

    @abstractmethod
    def targets(self, batch: Batch) -> SoftTargets:
        """Of the positions of ``batch.target_mask``, row by row."""


@final
@dataclass(frozen=True)
class Whole(SoftTargets):
    """All of a teacher's distribution, made when it is asked for, so that [T, V] is never held."""

    head: Head
    hidden: Float[Tensor, "T D"]
    temperature: float

    def divergence(self, logits: Float[Tensor, "C V"], part: slice) -> Float[Tensor, " C"]:
        with torch.no_grad():
            log_p = (self.head.logits(self.hidden[part]) / self.temperature).log_softmax(-1)
        log_q = (logits / self.temperature).log_softmax(-1)
        return self.temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


@final
@dataclass(frozen=True)
class Top(SoftTargets):
    """The most probable tokens of each target; what they leave is one more outcome."""

    ids: Int[Tensor, "T K"]
    log_p: Float[Tensor, "T K"]

    def divergence(self, logits: Float[Tensor, "C V"], part: slice) -> Float[Tensor, " C"]:
        ids, log_p = self.ids[part].long(), self.log_p[part].float()
        every = logits.log_softmax(-1)
        log_q = every.gather(1, ids)
        known = (log_p.exp() * (log_p - log_q)).sum(-1)
        if ids.shape[1] == logits.shape[1]:
            return known
        others = every.scatter(1, ids, -torch.inf).logsumexp(-1)
        rest = (1 - log_p.exp().sum(-1)).clamp(min=0)
        return known + torch.where(rest > 0, rest * (rest.clamp(min=1e-30).log() - others), 0.0)


@final
class Online(Teacher):
    """A model that reads the same rows, in evaluation mode: dropless and without noise."""

    def __init__(self, model: Model, temperature: float) -> None:
        self.model = model.eval().requires_grad_(False)
        self.temperature = temperature

    def targets(self, batch: Batch) -> SoftTargets:
        with torch.no_grad():
            output = self.model(batch, observed=False)
        return Whole(output.head, at_targets(output.hidden, batch), self.temperature)


def at_targets(hidden: Float[Tensor, "B S D"], batch: Batch) -> Float[Tensor, "T D"]:
    """The hidden states that predict targets, row by row."""
    places = batch.target_mask.flatten().nonzero().squeeze(1)
    return hidden.flatten(0, 1).index_select(0, places)


def soft_loss(output: ModelOutput, batch: Batch, teacher: Teacher) -> Float[Tensor, ""]:
    """The divergence from the teacher summed over the targets, float32, with gradient; the logits
    of a chunk are computed again in the backward pass."""
    wanted, rows = teacher.targets(batch), at_targets(output.hidden, batch)
    total = torch.zeros((), dtype=torch.float32, device=rows.device)

    def apart(hidden: Tensor, part: slice) -> Tensor:
        return wanted.divergence(output.head.logits(hidden), part).sum()

    for part in chunks(rows.shape[0], output.head.weight.shape[0]):
        total = total + checkpoint(apart, rows[part], part, use_reentrant=False)
    return total
