"""The language objective: cross-entropy of the batch's targets and the sparse layers' losses.

Causal language modelling and span corruption differ in their batches alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree

from turnout.config.losses import LossConfig, Scope
from turnout.config.model import ModelConfig
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.head import HeadLoss
from turnout.models.outputs import ModelOutput
from turnout.moe.losses import (
    BALANCE_FORMS,
    LossSums,
    importance_loss,
    load_balancing_loss,
    load_loss,
)
from turnout.moe.stats import LayerStats
from turnout.objectives.report import LossReport, Terms
from turnout.objectives.router_terms import build_router_term
from turnout.objectives.scopes import Phi, StepSums, linearised, whole
from turnout.objectives.soft_targets import Teacher, soft_loss
from turnout.objectives.totals import Totals

Across = Callable[[LossSums], LossSums]


@dataclass(frozen=True)
class Lesson:
    """A teacher, and its share of the loss of a target, until a share of the run is done."""

    teacher: Teacher
    soft: float
    until: float

    def given(self, model: Model, batch: Batch) -> bool:
        """Whether the teacher takes part; in evaluation it always does."""
        return not model.training or batch.progress < self.until


@final
class LanguageObjective:
    """Owns the loss weights; nothing else in the system knows them."""

    def __init__(
        self,
        losses: LossConfig,
        model: ModelConfig,
        across: Across = lambda sums: sums,
        lesson: Lesson | None = None,
    ) -> None:
        self.losses = losses
        self.across = across
        self.moe = model.moe
        self.lesson = lesson
        self._model = model
        self._own = build_router_term(model)

    def with_losses(self, losses: LossConfig) -> "LanguageObjective":
        """The same objective with other coefficients."""
        return LanguageObjective(losses, self._model, self.across, self.lesson)

    def over(self, across: Across) -> "LanguageObjective":
        """The same objective for ranks that each see some of a step's rows.

        Args:
            across: adds one row of detached sums over the ranks; called by all of them alike.
        """
        return LanguageObjective(self.losses, self._model, across, self.lesson)

    def totals(self, batches: Sequence[Batch]) -> Totals:
        """Counts what divides the terms, over all micro-batches of a step."""
        return Totals.count(batches, self.moe)

    def prepare(
        self,
        model: Model,
        batches: Sequence[Batch],
        previous: StepSums | None = None,
        before: Callable[[int], None] | None = None,
    ) -> StepSums | None:
        """The sums at which batch-wide terms are linearised; None where none are needed.

        With several micro-batches and scope ``batch`` this is a counting pass: a forward of each
        without gradient. Scope ``previous`` takes the last step's sums instead, and counts on
        the first step.

        Args:
            previous: the last step's sums.
            before: called with the index of a micro-batch before its forward, to seed dropout
                as the pass with gradients will.
        """
        if self.moe is None or self.losses.scope == "group" or not any(self._on()):
            return None
        if self.losses.scope == "previous" and previous is not None:
            return previous
        if len(batches) == 1:
            return None
        parts = []
        with torch.no_grad():
            for index, batch in enumerate(batches):
                if before is not None:
                    before(index)
                parts.append(model(batch).layers)
        return self._added(parts)

    def __call__(
        self, model: Model, batch: Batch, totals: Totals, sums: StepSums | None = None
    ) -> LossReport:
        """One micro-batch's share of the step's loss.

        Args:
            totals: of the whole step.
            sums: what ``prepare`` gave.

        Raises:
            ValueError: a batch-wide term of several micro-batches without ``sums``.
        """
        output = model(batch, routing=self._own.needs_routing)
        taught = self.lesson is not None and self.lesson.given(model, batch)
        hard = 1.0 - self.lesson.soft if self.lesson is not None and taught else 1.0
        own = self._own(model, batch, output, partial(self._language, batch, hard))
        targets = max(totals.targets, 1)
        terms = Terms(
            language=own.loss.nats / targets,
            head_z=own.loss.z / targets,
            router_own=own.value / targets,
            soft=self._soft(batch, output, taught) / targets,
            **self.layer_terms(output.layers, totals, sums),
        )
        language = hard * own.loss.total / targets
        if taught and self.lesson is not None:
            language = language + self.lesson.soft * terms.soft
        return LossReport(
            total=self._weighted(language, terms),
            terms=_pytree.tree_map(torch.Tensor.detach, terms),
            layers=_pytree.tree_map(torch.Tensor.detach, output.layers),
        )

    def collect(self, reports: Sequence[LossReport]) -> StepSums:
        """The sums of a step, for scope ``previous``."""
        return self._added([report.layers for report in reports])

    def _added(self, parts: Sequence[Sequence[LayerStats]]) -> StepSums:
        """Over micro-batches and ranks."""
        found = StepSums.collect(parts)
        return StepSums(tuple(map(self.across, found.layers)))

    def _language(self, batch: Batch, hard: float, output: ModelOutput) -> HeadLoss:
        """Its total is multiplied by ``hard``, which is not meant for the z term."""
        z_weight = self.losses.head_z / hard if hard else 0.0
        return output.head.cross_entropy(
            output.hidden, batch.targets, batch.target_mask, z_weight=z_weight
        )

    def _soft(self, batch: Batch, output: ModelOutput, taught: bool) -> Float[Tensor, ""]:
        if self.lesson is None or not taught:
            return torch.zeros(())
        return soft_loss(output, batch, self.lesson.teacher)

    def _weighted(self, total: Float[Tensor, ""], terms: Terms) -> Float[Tensor, ""]:
        """``total`` of the language, with the other terms."""
        if self._own.coefficient > 0:
            total = total + self._own.coefficient * terms.router_own
        for name in ("balance", "router_z", "importance", "load", "entropy"):
            coefficient = getattr(self.losses, name)
            # A term that is off stays out of the graph, so that its NaN cannot reach a gradient.
            if coefficient > 0:
                total = total + coefficient * getattr(terms, name)
        return total

    def layer_terms(
        self, layers: tuple[LayerStats, ...], totals: Totals, sums: StepSums | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """The sparse layers' terms, unweighted, with gradient, by name."""
        share = 1 / len(layers) if layers and self.losses.layers == "mean" else 1.0
        zero = torch.zeros(())
        names = ("balance", "router_z", "importance", "load", "entropy")
        terms = dict.fromkeys(names, zero)
        for index, stats in enumerate(layers):
            tokens = max(totals.stack(stats.stack).tokens, 1)
            at = self._point(stats, totals) if sums is None else sums.layers[index]
            for name, phi in self._scoped(stats).items():
                on = getattr(self.losses, name) > 0
                scope = self.losses.scope if on else "group"
                value = _scoped_value(phi, stats, totals, scope, at)
                terms[name] = terms[name] + share * value
            terms["router_z"] = terms["router_z"] + share * stats.router.z.sum() / tokens
            terms["entropy"] = terms["entropy"] + share * stats.router.entropy.sum() / tokens
        return terms

    def _point(self, stats: LayerStats, totals: Totals) -> LossSums | None:
        """The sums at which the terms of one micro-batch are linearised: its own, all ranks'."""
        if self.losses.scope == "group" or totals.batches > 1 or not any(self._on()):
            return None
        return self.across(_detached(whole(LossSums.of(stats))))

    def _on(self) -> tuple[float, float, float]:
        """The coefficients of the terms that have a scope."""
        return self.losses.balance, self.losses.importance, self.losses.load

    def _scoped(self, stats: LayerStats) -> dict[str, Phi]:
        form = BALANCE_FORMS[self.losses.balance_variant]
        balance = partial(load_balancing_loss, choices=stats.choices, form=form)
        return {"balance": balance, "importance": importance_loss, "load": load_loss}


def _detached(sums: LossSums) -> LossSums:
    found: LossSums = _pytree.tree_map(torch.Tensor.detach, sums)
    return found


def _scoped_value(
    phi: Phi, stats: LayerStats, totals: Totals, scope: Scope, at: LossSums | None
) -> Float[Tensor, ""]:
    """A micro-batch's share of one layer's term, in the scope asked for."""
    stack, local = totals.stack(stats.stack), LossSums.of(stats)
    if scope == "group":
        return phi(local).sum() / max(stack.groups, 1)
    if at is None and totals.batches > 1:
        raise ValueError(
            f"losses.scope = {scope!r} over {totals.batches} micro-batches: sums are missing; "
            "pass what prepare() returned"
        )
    return linearised(phi, local, whole(local) if at is None else at, stack.tokens)
