"""One optimiser step: totals, preparation, micro-batches, clipping, guard, update."""

import math
import time
from dataclasses import asdict, replace
from functools import partial

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from turnout.config.train import RunConfig, TrainConfig
from turnout.data.batch import Batch
from turnout.data.bits import bits_per_byte
from turnout.models.base import Model
from turnout.objectives import LanguageObjective, LossReport
from turnout.train.average import update_average
from turnout.train.balancing import follow_loads
from turnout.train.diagnosis import first_bad
from turnout.train.dropout import seed_dropout
from turnout.train.guards import fault, gradients
from turnout.train.optim import expert_parameters, set_learning_rate
from turnout.train.report import StepReport, layer_reports
from turnout.train.schedules import factor
from turnout.train.state import TrainState


def optimiser_step(
    state: TrainState, objective: LanguageObjective, batches: list[Batch], run: RunConfig
) -> StepReport:
    """Train on ``batches``, the micro-batches of one step, and count the step.

    Gradients are summed over micro-batches: each report is already divided by the step's totals.
    Where a loss or a gradient is not finite nothing is updated, and the report says why.
    """
    started = time.perf_counter()
    control = state.control
    reports = _backward(state, objective, batches, run.train.seed)
    _scale_experts(state.model, run)
    terms = add_terms([asdict(report.terms) for report in reports])
    total = sum(float(report.total.detach()) for report in reports)
    layers = [report.layers for report in reports]
    found = gradients(state.model)
    norm = get_total_norm(found)
    rate = run.optimizer.learning_rate * factor(run.schedule, state.step, run.train.steps)
    skipped = fault(state.model, terms, layers, total, float(norm))
    if skipped:
        skipped += _origin(state, batches, run.train.seed)
    else:
        _update(state, norm, rate, run.train)
        follow_loads(state.model, layers)
        state.sums = objective.collect(reports) if run.losses.scope == "previous" else None
    state.optimizer.zero_grad(set_to_none=True)
    tokens = sum(map(real_tokens, batches))
    state.step += 1
    state.tokens += tokens
    streak = control.skipped + 1 if skipped else 0
    state.control = replace(control, batch=control.batch + 1, skipped=streak)
    return StepReport(
        step=state.step,
        loss=terms["language"],
        bits=bits_per_byte(terms["language"], batches),
        terms=terms,
        learning_rate=rate,
        gradient_norm=float(norm),
        targets=sum(int(batch.target_mask.sum()) for batch in batches),
        tokens=state.tokens,
        tokens_per_second=tokens / max(time.perf_counter() - started, 1e-9),
        layers=layer_reports(layers),
        skipped=skipped,
        batch=control.batch,
    )


def add_terms(parts: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Terms of a step: each micro-batch holds its share, so they add up."""
    return {name: math.fsum(float(part[name]) for part in parts) for name in parts[0]}


def real_tokens(batch: Batch) -> int:
    """Tokens that are not padding, in all stacks."""
    encoder = 0 if batch.encoder is None else int(batch.encoder.mask.sum())
    return int(batch.decoder.mask.sum()) + encoder


def _backward(
    state: TrainState, objective: LanguageObjective, batches: list[Batch], seed: int
) -> list[LossReport]:
    before = partial(seed_dropout, seed, state.step)
    state.model.train()
    totals = objective.totals(batches)
    sums = objective.prepare(state.model, batches, state.sums, before)
    reports = []
    for index, batch in enumerate(batches):
        before(index)
        report = objective(state.model, batch, totals, sums)
        torch.autograd.backward(report.total)
        reports.append(report)
    return reports


def _scale_experts(model: Model, run: RunConfig) -> None:
    """Multiplies the experts' gradients by 1 / sqrt(E), where configured."""
    moe = run.model.moe
    if moe is None or run.train.expert_gradient == "full":
        return
    for param in expert_parameters(model):
        if param.grad is not None:
            param.grad.mul_(param.shape[0] ** -0.5)


def _origin(state: TrainState, batches: list[Batch], seed: int) -> str:
    found = first_bad(state.model, batches, partial(seed_dropout, seed, state.step))
    return f"; it begins in {found}" if found else ""


def _update(state: TrainState, norm: torch.Tensor, rate: float, train: TrainConfig) -> None:
    if train.clip_norm > 0:
        clip_grads_with_norm_(state.model.parameters(), train.clip_norm, norm)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    if state.average is not None:
        update_average(state.average, state.model, train.average)
