"""One logical batch of eight sequences, cut and padded in every way, and its step."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from tests.models.cases import MODERN, T5, VOCABULARY
from turnout import models
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig, RoutingGroup, RowsGroup
from turnout.config.routers import RouterConfig
from turnout.data.batch import Batch, Stream
from turnout.models.base import Model
from turnout.objectives import LanguageObjective, StepSums

# Documents of each sequence: lengths of the segments packed into it, 12 tokens at most.
ROWS = [[7, 5], [12], [3], [4, 4, 2], [1], [9, 2], [6], [2, 10]]
SEGMENTS = 3
LENGTH = 12
ALL_ON = LossConfig(balance=0.5, router_z=0.1, importance=0.3, load=0.2, entropy=0.05, head_z=0.01)


def sparse(router: RouterConfig, capacity: float | None, group: RoutingGroup) -> MoEConfig:
    # Routers that decide over whole groups stand in decoders too: that they read ahead is no
    # matter here.
    return MoEConfig(
        4,
        router,
        train_capacity_factor=capacity,
        group=group,
        min_capacity=1,
        init_scale=1.0,
        allow_future_routing=True,  # for routers of a whole group, which a decoder refuses
    )


def build(moe: MoEConfig, family: ModelConfig = MODERN, *, recompute: bool = False) -> Model:
    """A model of two layers, the second sparse, with decided routers."""
    lengths = (
        {"length": LENGTH}
        if family.kind == "decoder_only"
        else {
            "encoder_length": LENGTH,
            "decoder_length": LENGTH,
        }
    )
    model = models.build(replace(family, moe=moe, **lengths), recompute=recompute)
    model.init_weights(3)
    for layer in model.sparse_layers().values():
        for weight in layer.router.parameters():
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model.train()


def stream(rows: list[list[int]], first: int, width: int, left: bool, salt: int = 0) -> Stream:
    """Rows of documents; a document's ids depend on (row, document) alone.

    No id follows itself: where a document begins with one id twice, both tokens have the same
    hidden state, a tie that a rounding decides when experts choose.
    """
    shape = (len(rows), width)
    ids, segment, position = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    for index, lengths in enumerate(rows):
        start = width - sum(lengths) if left else 0
        for number, length in enumerate(lengths):
            here = slice(start, start + length)
            generator = torch.Generator().manual_seed(salt + 100 * (first + index) + number)
            steps = torch.randint(1, VOCABULARY - 1, (length,), generator=generator)
            ids[index, here] = 1 + steps.cumsum(0) % (VOCABULARY - 1)
            segment[index, here] = number + 1
            position[index, here] = torch.arange(length)
            start += length
    return Stream(ids, segment > 0, segment, position, SEGMENTS)


def part(
    rows: list[list[int]], first: int, width: int, left: bool = False, *, encoder: bool = False
) -> Batch:
    """A micro-batch of ``rows``, the first of which is global row ``first``."""
    decoder = stream(rows, first, width, left)
    number = torch.arange(first, first + len(rows))
    return Batch(
        decoder=decoder,
        targets=(decoder.ids * 7 + decoder.position) % VOCABULARY,
        target_mask=decoder.mask & (decoder.position > 0),
        keys=number * 104_729 + 17,
        row=number,
        encoder=stream(rows, first, width, left, 7000) if encoder else None,
        progress=0.5,
        labels=number % 2,
    )


def cut(
    size: int, *, width: int = LENGTH, left: bool = False, encoder: bool = False
) -> list[Batch]:
    """The eight sequences in micro-batches of ``size`` rows."""
    return [part(ROWS[i : i + size], i, width, left, encoder=encoder) for i in range(0, 8, size)]


@dataclass(frozen=True)
class Step:
    """What a step is: its loss, terms, gradients and counts."""

    total: float
    terms: dict[str, float]
    gradients: dict[str, Tensor]
    kept: list[list[int]]


def run(
    model: Model, losses: LossConfig, batches: list[Batch], previous: StepSums | None = None
) -> Step:
    """One step without the optimiser."""
    objective = LanguageObjective(losses, model.config)
    totals = objective.totals(batches)
    sums = objective.prepare(model, batches, previous)
    model.zero_grad()
    reports = []
    for batch in batches:
        report = objective(model, batch, totals, sums)
        report.total.backward()
        reports.append(report)
    terms = [asdict(report.terms) for report in reports]
    layers = zip(*[report.layers for report in reports], strict=True)
    return Step(
        total=sum(float(report.total.detach()) for report in reports),
        terms={name: sum(float(part[name]) for part in terms) for name in terms[0]},
        gradients={n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
        kept=[torch.cat([stats.kept for stats in layer]).sum(0).tolist() for layer in layers],
    )


__all__ = [
    "ALL_ON",
    "MODERN",
    "T5",
    "DocumentGroup",
    "RowsGroup",
    "Step",
    "build",
    "cut",
    "part",
    "run",
    "sparse",
]
