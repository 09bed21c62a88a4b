"""One optimiser step: totals, preparation, micro-batches, clipping, guard, update."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.nn.utils import clip_grads_with_norm_

from turnout.config.train import RunConfig, TrainConfig
from turnout.data.batch import Batch
from turnout.data.bits import bits_of_text
from turnout.models.base import Model
from turnout.objectives import LanguageObjective, LossReport
from turnout.train.average import update_average
from turnout.train.balancing import follow_loads
from turnout.train.counts import Counts
from turnout.train.diagnosis import first_bad
from turnout.train.dropout import seed_dropout
from turnout.train.guards import found_bad
from turnout.train.optim import set_learning_rate
from turnout.train.ranks import Ranks
from turnout.train.report import StepReport, layer_reports
from turnout.train.schedules import factor
from turnout.train.state import TrainState
from turnout.train.trained import hold_still

CLIP_EPSILON = 1e-6  # what clip_grads_with_norm_ adds to the norm


def optimiser_step(
    state: TrainState,
    objective: LanguageObjective,
    batches: list[Batch],
    run: RunConfig,
    counts: Counts | None = None,
) -> StepReport:
    """Train on ``batches``, this rank's micro-batches of one step, and count the step.

    Gradients are summed over micro-batches and ranks: each report is already divided by the
    step's totals. Where a loss or a gradient is not finite nothing is updated, and the report says
    why.

    Args:
        counts: of all ranks; counted here where they are not given.
    """
    started = time.perf_counter()
    control, ranks = state.control, state.ranks
    if counts is None:
        counts = Counts.of(ranks.add(Counts.numbers(objective, batches)), len(batches))
    reports = _backward(state, objective, batches, run.train.seed, counts)
    _scale_experts(state.model, run)
    ranks.settle(state.model)
    hold_still(ranks, state.model, state.still)
    terms, total = added_terms(ranks, reports)
    layers = ranks.add_layers([report.layers for report in reports])
    norm = ranks.norm(state.model)
    rate = run.optimizer.learning_rate * factor(run.schedule, state.step, run.train.steps)
    skipped = fault(state, reports, batches, run.train.seed, (total, float(norm)))
    if not skipped:
        _update(state, norm, rate, run.train)
        follow_loads(state.model, layers)
        state.sums = objective.collect(reports) if run.losses.scope == "previous" else None
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += counts.tokens
    streak = control.skipped + 1 if skipped else 0
    state.control = replace(control, batch=control.batch + 1, skipped=streak)
    return StepReport(
        step=state.step,
        loss=terms["language"],
        bits=bits_of_text(terms["language"], counts.totals.targets, counts.bytes),
        terms=terms,
        learning_rate=rate,
        gradient_norm=float(norm),
        targets=counts.totals.targets,
        tokens=state.tokens,
        tokens_per_second=counts.tokens / max(time.perf_counter() - started, 1e-9),
        layers=layer_reports(layers),
        skipped=skipped,
        batch=control.batch,
    )


def added_terms(ranks: Ranks, reports: Sequence[LossReport]) -> tuple[dict[str, float], float]:
    """Terms and total of a step: each micro-batch and each rank holds its share, so they add up."""
    own, total = _own_terms(reports)
    *values, whole = ranks.add([*own.values(), total])
    return dict(zip(own, values, strict=True)), whole


def _own_terms(reports: Sequence[LossReport]) -> tuple[dict[str, float], float]:
    parts = [vars(report.terms) for report in reports]
    terms = {name: math.fsum(float(part[name]) for part in parts) for name in parts[0]}
    return terms, sum(float(report.total.detach()) for report in reports)


def _backward(
    state: TrainState,
    objective: LanguageObjective,
    batches: list[Batch],
    seed: int,
    counts: Counts,
) -> list[LossReport]:
    before = _dropout(state, batches, seed)
    state.model.train()
    sums = objective.prepare(state.model, batches, state.sums, before)
    reports = []
    for index, batch in enumerate(batches):
        before(index)
        report = objective(state.model, batch, counts.totals, sums)
        torch.autograd.backward(report.total)
        reports.append(report)
    return reports


def _scale_experts(model: Model, run: RunConfig) -> None:
    """Multiplies the experts' gradients by 1 / sqrt(E), where configured."""
    moe = run.model.moe
    if moe is None or run.train.expert_gradient == "full":
        return
    for layer in model.sparse_layers().values():
        for param in layer.experts.parameters():
            if param.grad is not None:
                param.grad.mul_(layer.experts.num_experts**-0.5)


def fault(
    state: TrainState,
    reports: Sequence[LossReport],
    batches: list[Batch],
    seed: int,
    whole: tuple[float, float],
) -> str:
    """Why a step must be skipped, from what each rank sees; empty when it is sound.

    Args:
        whole: loss and norm of the gradient, of all ranks: they decide.
    """
    if all(map(math.isfinite, whole)):
        return ""
    weights = state.ranks.weights(state.model)
    terms, total = _own_terms(reports)
    own = found_bad(weights, terms, [report.layers for report in reports], total)
    origin = first_bad(state.model, weights, batches, _dropout(state, batches, seed))
    begins = f"; it begins in {origin}" if origin else ""
    said = state.ranks.blame(f"{own}{begins}" if own else "")
    return said or "the gradient of all parameters together (it overflows) is not finite"


def _dropout(state: TrainState, batches: list[Batch], seed: int) -> Callable[[int], None]:
    """Seeds the dropout of a micro-batch, another one on each rank that reads rows."""
    first = state.ranks.batch_rank * len(batches)
    return lambda index: seed_dropout(seed, state.step, first + index)


def _update(state: TrainState, norm: torch.Tensor, rate: float, train: TrainConfig) -> None:
    weights = state.ranks.weights(state.model)
    # A factor of one would still read and write every gradient.
    if 0 < train.clip_norm < float(norm) + CLIP_EPSILON:
        clip_grads_with_norm_(weights.values(), train.clip_norm, norm)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    if state.average is not None:
        update_average(state.average, weights, train.average)
