"""A run on thousands of ranks, seen from some of them, one after another."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from turnout import objectives
from turnout.checkpoint import ranks as checkpoint
from turnout.config.arithmetic import lengths
from turnout.config.model import ModelConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models.build import build
from turnout.parallel.apply import apply
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.simulate.collectives import axes
from turnout.simulate.loads import Load
from turnout.simulate.meter import Meter, meter_dispatch
from turnout.simulate.step import StepCost, metered_step
from turnout.simulate.traffic import Traffic, announce
from turnout.simulate.world import as_rank, without_values
from turnout.train.state import TrainState

Tell = Callable[[str], None]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RankCost:
    """One rank's step.

    Attributes:
        rank: its number.
        arrived: rows that came to its experts in one forward pass.
        mean_arrived: the mean over its expert axis.
        seconds: that its simulation took.
    """

    rank: int
    cost: StepCost
    arrived: int
    mean_arrived: float
    seconds: float


def simulate(
    run: RunConfig, plan: ParallelPlan, load: Load, tell: Tell = lambda text: None
) -> dict[str, RankCost]:
    """One step of the first, the last and the most loaded rank.

    Args:
        run: whose dtype is named.
        plan: with its sizes as numbers.
        tell: is told what is being done.

    Raises:
        UserError: the load model does not fit the model.
    """
    found: dict[str, RankCost] = {}
    traffic = Traffic(load)
    for name, rank in (("first", 0), ("last", plan.ranks - 1)):
        tell(f"{name} rank ({rank} of {plan.ranks})")
        found[name] = _of_rank(run, plan, traffic, rank)
    arrivals = traffic.arrivals(plan.expert)
    fullest = int(arrivals.argmax()) * plan.tensor
    known = {cost.rank: cost for cost in found.values()}
    if fullest not in known:
        tell(f"most loaded rank ({fullest} of {plan.ranks})")
        known[fullest] = _of_rank(run, plan, traffic, fullest)
    return {**found, "most loaded": known[fullest]}


def _of_rank(run: RunConfig, plan: ParallelPlan, traffic: Traffic, rank: int) -> RankCost:
    started = time.perf_counter()
    cost = as_rank(rank, plan.ranks, lambda: _step(run, plan, traffic))
    arrivals = traffic.arrivals(plan.expert)
    return RankCost(
        rank=rank,
        cost=cost,
        arrived=int(arrivals[rank // plan.tensor % plan.expert]),
        mean_arrived=float(arrivals.mean()),
        seconds=time.perf_counter() - started,
    )


def _step(run: RunConfig, plan: ParallelPlan, traffic: Traffic) -> StepCost:
    """Layouts are made of tensors on meta: with a fake one FSDP would copy each of its parts."""
    meshes = Meshes.of(plan)
    group = 1 if run.model.moe is None else run.model.moe.group.rows
    ranks = ManyRanks(meshes, group, checkpoint.Alone(), counts=traffic.counts)
    dtype = _DTYPES[run.train.dtype]
    model = build(run.model, dtype=dtype, recompute=run.train.recompute, device="meta")
    ranks.layout = apply(model, meshes, traffic.counts)
    meter = Meter(axes(meshes))
    announce(model, traffic)
    meter_dispatch(model, meter)
    objective = objectives.build(run.losses, run.model).over(ranks.whole_sums)
    with without_values():
        model.to_empty(device="cpu")
        ranks.hold(model)
        state = TrainState.fresh(run, model, ranks)
        batches = [batch_of(run.model, run.train.micro_batch_rows)] * run.train.micro_batches
        return metered_step(state, objective, run, batches, meter)


def batch_of(model: ModelConfig, rows: int) -> Batch:
    """Full rows of one document each, of zeros."""
    streams = [_stream(rows, length) for length in lengths(model)]
    decoder = streams[-1]
    keys = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        decoder=decoder,
        targets=torch.zeros_like(decoder.ids),
        target_mask=torch.ones_like(decoder.mask),
        keys=keys,
        row=torch.arange(rows),
        encoder=streams[0] if len(streams) > 1 else None,
        text_bytes=torch.zeros_like(keys),
    )


def _stream(rows: int, length: int) -> Stream:
    ids = torch.zeros(rows, length, dtype=torch.int64)
    position: Tensor = torch.arange(length).expand(rows, length).contiguous()
    return Stream(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), position)


def named_dtype(run: RunConfig) -> RunConfig:
    """``auto`` is taken as bfloat16, as on accelerators."""
    if run.train.dtype != "auto":
        return run
    return replace(run, train=replace(run.train, dtype="bfloat16"))
