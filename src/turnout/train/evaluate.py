"""The held-out rows: language loss alone, every other term beside it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from turnout.data.batch import Batch
from turnout.data.bits import bits_per_byte, text_bytes
from turnout.models.base import Model
from turnout.objectives import LanguageObjective
from turnout.train.report import Evaluation, dropped_share, layer_reports
from turnout.train.step import add_terms


@torch.no_grad()
def evaluate(
    model: Model,
    objective: LanguageObjective,
    batches: list[Batch],
    step: int = 0,
    sources: Sequence[str] = (),
) -> Evaluation:
    """Evaluate in evaluation mode (dropless unless configured, no noise); the mode is restored.

    Args:
        sources: names of a mixture's sources. Every batch then holds one of them, by its labels.
    """
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
        sources=_by_source([report.terms.language for report in reports], batches, sources),
    )


def _by_source(
    shares: list[Tensor], batches: list[Batch], names: Sequence[str]
) -> dict[str, float]:
    """Mean nats per target of each source, from the batches' shares of the mean over all."""
    targets = [int(batch.target_mask.sum()) for batch in batches]
    labels = [-1 if batch.labels is None else int(batch.labels[0]) for batch in batches]
    found = {}
    for number, name in enumerate(names):
        here = [i for i, label in enumerate(labels) if label == number]
        nats = math.fsum(float(shares[i]) for i in here) * sum(targets)
        found[name] = nats / max(sum(targets[i] for i in here), 1)
    return found
