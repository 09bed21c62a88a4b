"""One process and many ranks on the same batch: what is to be compared, computed on each rank.

The jobs run inside of the ranks. Each builds the model twice, whole and laid out, from the same
seed; rank by rank it returns relative differences, so that nothing large is sent.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree

from tests.models.cases import GLAM, MODERN, T5, batch_of, stream
from turnout.checkpoint import ranks as checkpoint
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig, Placement, RowsGroup
from turnout.config.parallel import ParallelPlan
from turnout.config.routers import SwitchRouter, TopKRouter
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.build import build
from turnout.objectives import LanguageObjective
from turnout.objectives import build as build_objective
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.parallel.shards import Cut, Shard
from turnout.train.counts import Counts

ROWS = 8
EVERY = Placement(step=1)
SWITCH = MoEConfig(4, SwitchRouter(), placement=EVERY, train_capacity_factor=1.0, min_capacity=1)
TOP2 = MoEConfig(
    4,
    TopKRouter(2),
    expert=FeedForwardConfig(16, "swiglu", bias=True),
    shared_experts=1,
    placement=EVERY,
    train_capacity_factor=None,
)
MODELS: dict[str, ModelConfig] = {
    "decoder, switch at capacity 1": replace(GLAM, moe=SWITCH),
    "decoder, top-2 dropless": replace(
        MODERN, moe=TOP2, attention=replace(MODERN.attention, bias="all", sinks=True)
    ),
    "decoder, groups of two rows": replace(GLAM, moe=replace(SWITCH, group=RowsGroup(2))),
    "encoder-decoder, switch at capacity 1": replace(T5, moe=SWITCH),
    "encoder-decoder, top-2": replace(T5, moe=replace(TOP2, train_capacity_factor=1.0)),
}
DROPLESS = replace(SWITCH, train_capacity_factor=None)
MORE: dict[str, ModelConfig] = {
    "decoder, switch dropless": replace(GLAM, moe=DROPLESS),
    "decoder, top-2 at capacity 1": replace(MODERN, moe=replace(TOP2, train_capacity_factor=1.0)),
    "encoder-decoder, switch dropless": replace(T5, moe=DROPLESS),
    "encoder-decoder, top-2 dropless": replace(T5, moe=TOP2),
}
ALL = {**MODELS, **MORE}
LENGTHS = (16, 9, 12, 16, 3, 16, 8, 10)


@dataclass(frozen=True)
class Case:
    """A model, its losses and a layout; ``parts`` are micro-batches.

    ``labels`` are those of the rows; ``trimmed`` rows of a rank are as long as its longest.
    ``last`` are the lengths of the rows of the last micro-batch, where they are others.
    """

    model: ModelConfig
    plan: ParallelPlan
    losses: LossConfig = field(default_factory=LossConfig)
    lengths: tuple[int, ...] = LENGTHS
    parts: int = 1
    recompute: bool = False
    labels: tuple[int, ...] | None = None
    trimmed: bool = False
    last: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32


def batches_of(case: Case) -> list[Batch]:
    """The micro-batches of all ranks; rows of different lengths, whose keys are their numbers."""
    parts = []
    for part in range(case.parts):
        last = case.last is not None and part == case.parts - 1
        lengths = list(case.last or () if last else case.lengths)
        decoder = stream(lengths, 16, seed=2 * part + 1)
        encoder = stream(lengths[::-1], 16, seed=2 * part + 2)
        both = case.model.kind == "encoder_decoder"
        batch = batch_of(decoder, encoder if both else None)
        labels = None if case.labels is None else torch.tensor(case.labels)
        parts.append(replace(batch, labels=labels))
    return parts


def _trimmed(batch: Batch) -> Batch:
    longest = int(batch.decoder.mask.sum(1).max())
    cut: Batch = _pytree.tree_map(
        lambda leaf: leaf[:, :longest] if torch.is_tensor(leaf) and leaf.dim() > 1 else leaf, batch
    )
    return cut


def whole_model(case: Case) -> Model:
    """As every rank has it before it is laid out."""
    model = build(case.model, dtype=case.dtype, recompute=case.recompute)
    model.init_weights(3)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "bias" in name or "b_" in name or "sinks" in name:  # zeros would prove nothing
                param.add_(torch.randn(param.shape, generator=_generator(name)) * 0.1)
    return model


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, name)))


@cache
def meshes(plan: ParallelPlan) -> Meshes:
    """One a layout: every group has a thread, which would stay for as long as the ranks do."""
    return Meshes.of(plan)


@dataclass(frozen=True)
class Both:
    """The same model whole and laid out, with what a rank needs for a step."""

    case: Case
    one: Model
    many: Model
    ranks: ManyRanks
    whole: list[Batch]
    own: list[Batch]

    @staticmethod
    def of(case: Case) -> "Both":
        plan = case.plan.over(dist.get_world_size())
        group = 1 if case.model.moe is None else case.model.moe.group.rows
        ranks = ManyRanks(meshes(plan), group, checkpoint.Alone())
        one, many = whole_model(case), whole_model(case)
        ranks.lay_out(many)
        whole = batches_of(case)
        own = ranks.share(whole)
        own = list(map(_trimmed, own)) if case.trimmed else own
        return Both(case, one, many, ranks, whole, own)

    def objective(self) -> LanguageObjective:
        return build_objective(self.case.losses, self.case.model)

    def step_one(self) -> dict[str, float]:
        """Backward passes of one process; its terms."""
        objective = self.objective()
        totals = objective.totals(self.whole)
        sums = objective.prepare(self.one, self.whole)
        found: dict[str, float] = {}
        for batch in self.whole:
            report = objective(self.one, batch, totals, sums)
            report.total.backward()  # type: ignore[no-untyped-call]
            _add(found, report.terms.__dict__, report.total)
        return found

    def step_many(self) -> dict[str, float]:
        """The same of this rank's rows; the terms of all ranks."""
        found = self.step_own(self.many)
        self.ranks.settle(self.many)
        return dict(zip(found, self.ranks.add(list(found.values())), strict=True))

    def step_own(self, model: Model) -> dict[str, float]:
        """Backward passes of either model through this rank's rows; its terms."""
        objective = self.objective().over(self.ranks.whole_sums)
        numbers = self.ranks.add(Counts.numbers(objective, self.own))
        totals = Counts.of(numbers, len(self.own)).totals
        sums = objective.prepare(model, self.own)
        found: dict[str, float] = {}
        for batch in self.own:
            report = objective(model, batch, totals, sums)
            report.total.backward()  # type: ignore[no-untyped-call]
            _add(found, report.terms.__dict__, report.total)
        return found

    def gathered(self, name: str, block: Tensor | None) -> Tensor | None:
        """A whole tensor from the ranks' blocks of it; None for what this rank leaves to another.

        A block of None stands for zeros.
        """
        shard = self.ranks.layout.shards[name]
        if not shard.owned:
            return None
        return gathered(shard, torch.zeros(shard.block[1]) if block is None else block)


def _add(found: dict[str, float], terms: dict[str, Any], total: Tensor) -> None:
    for name, value in {**terms, "total": total}.items():
        found[name] = found.get(name, 0.0) + float(value.detach())


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest entry expected."""
    largest = float(expected.abs().max())
    return float((found - expected).abs().max()) / largest if largest else float(found.abs().max())


def gathered(shard: Shard, block: Tensor) -> Tensor:
    """The whole tensor from the ranks' blocks; all ranks of the cuts call it."""
    sizes = [list(shard.shape)]
    for cut in shard.cuts:
        sizes.append(list(sizes[-1]))
        sizes[-1][cut.dim] = cut.span(sizes[-1][cut.dim])[1]
    for cut, outer in zip(reversed(shard.cuts), reversed(sizes[:-1]), strict=True):
        block = _joined(block, cut, outer[cut.dim])
    return block


def _joined(block: Tensor, cut: Cut, size: int) -> Tensor:
    """The parts of one dimension, one behind the other; the last may be shorter or empty."""
    each = -(-size // cut.parts)
    shape = list(block.shape)
    shape[cut.dim] = each
    padded = block.new_zeros(shape)
    padded.narrow(cut.dim, 0, block.shape[cut.dim]).copy_(block)
    parts = [torch.empty_like(padded) for _ in range(cut.parts)]
    dist.all_gather(parts, padded, group=cut.group)
    return torch.cat(parts, dim=cut.dim).narrow(cut.dim, 0, size)
