"""The held-out rows: language loss alone, every other term beside it."""

import time
from dataclasses import asdict

import torch

from turnout.data.batch import Batch
from turnout.data.bits import bits_per_byte, text_bytes
from turnout.models.base import Model
from turnout.objectives import LanguageObjective
from turnout.train.report import Evaluation, dropped_share, layer_reports
from turnout.train.step import add_terms


@torch.no_grad()
def evaluate(
    model: Model, objective: LanguageObjective, batches: list[Batch], step: int = 0
) -> Evaluation:
    """Evaluate in evaluation mode (dropless unless configured, no noise); the mode is restored."""
    started = time.perf_counter()
    training = model.training
    model.eval()
    try:
        totals = objective.totals(batches)
        sums = objective.prepare(model, batches)
        reports = [objective(model, batch, totals, sums) for batch in batches]
    finally:
        model.train(training)
    terms = add_terms([asdict(report.terms) for report in reports])
    loss = terms.pop("language")
    layers = layer_reports([report.layers for report in reports])
    return Evaluation(
        step=step,
        loss=loss,
        bits=bits_per_byte(loss, batches),
        targets=sum(int(batch.target_mask.sum()) for batch in batches),
        bytes=text_bytes(batches),
        terms=terms,
        balance=max((layer.balance for layer in layers), default=1.0),
        dropped=dropped_share(layers),
        seconds=time.perf_counter() - started,
    )
