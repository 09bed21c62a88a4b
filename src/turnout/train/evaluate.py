"""The held-out rows: language loss alone, every other term beside it."""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from turnout.data.batch import Batch
from turnout.data.bits import bits_of_text
from turnout.models.base import Model
from turnout.models.modes import evaluating
from turnout.objectives import LanguageObjective
from turnout.train.counts import Counts
from turnout.train.ranks import Alone, Ranks
from turnout.train.report import Evaluation, dropped_share, layer_reports
from turnout.train.step import added_terms


@torch.no_grad()
def evaluate(
    model: Model,
    objective: LanguageObjective,
    batches: list[Batch],
    step: int = 0,
    sources: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate in evaluation mode (dropless unless configured, no noise); the mode is restored.

    Args:
        batches: all rows; the ranks share out each batch.
        sources: names of a mixture's sources. Every batch then holds one of them, by its labels.
        ranks: those that the model is laid over; by default it is whole.
    """
    ranks = Alone() if ranks is None else ranks
    batches = ranks.share(batches)
    started = time.perf_counter()
    with evaluating(model):
        ranks.refresh(model)
        counts = Counts.of(ranks.add(Counts.numbers(objective, batches)), len(batches))
        totals = counts.totals
        sums = objective.prepare(model, batches)
        reports = [objective(model, batch, totals, sums) for batch in batches]
    ranks.refresh(model)
    terms, _ = added_terms(ranks, reports)
    loss = terms.pop("language")
    layers = layer_reports(ranks.add_layers([report.layers for report in reports]))
    return Evaluation(
        step=step,
        loss=loss,
        bits=bits_of_text(loss, totals.targets, counts.bytes),
        targets=totals.targets,
        bytes=counts.bytes,
        terms=terms,
        balance=max((layer.balance for layer in layers), default=1.0),
        dropped=dropped_share(layers),
        seconds=time.perf_counter() - started,
        sources=_by_source(ranks, [report.terms.language for report in reports], batches, sources),
    )


def _by_source(
    ranks: Ranks, own: list[Tensor], batches: list[Batch], names: Sequence[str]
) -> dict[str, float]:
    """Mean nats per target of each source, from the batches' shares of the mean over all."""
    counted = [float(batch.target_mask.sum()) for batch in batches]
    added = ranks.add([*map(float, own), *counted])
    shares, targets = added[: len(own)], added[len(own) :]
    labels = [-1 if batch.labels is None else int(batch.labels[0]) for batch in batches]
    found = {}
    for number, name in enumerate(names):
        here = [i for i, label in enumerate(labels) if label == number]
        nats = math.fsum(shares[i] for i in here) * sum(targets)
        found[name] = nats / max(sum(targets[i] for i in here), 1)
    return found
