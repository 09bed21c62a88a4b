"""The meter on two real gloo ranks and on simulated ones: the same collectives and bytes; and the
peak of the plan, which is near."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed.harness import Pool
from tests.models.cases import batch_of, stream
from tests.simulate.cases import MODEL, in_half, small
from turnout import objectives
from turnout.checkpoint import ranks as checkpoint
from turnout.config.layout import over_ranks
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.build import build
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.plan.memory import memory
from turnout.plan.work import work_of
from turnout.simulate.collectives import axes
from turnout.simulate.loads import Recorded
from turnout.simulate.meter import Meter, meter_dispatch
from turnout.simulate.simulation import simulate
from turnout.simulate.step import StepCost, metered_step
from turnout.train.state import TrainState

PLANS = {
    "fsdp": ParallelPlan(),
    "expert": ParallelPlan(expert=2),
    "expert, bfloat16 on the wire": ParallelPlan(expert=2, wire="bfloat16"),
    "tensor": ParallelPlan(tensor=2),
    "sequence": ParallelPlan(tensor=2, sequence=True),
}
RUNS = {name: small(plan) for name, plan in PLANS.items()} | {
    f"{name}, in bfloat16": in_half(small(PLANS[name])) for name in ("fsdp", "expert", "tensor")
}


def _model(dtype: torch.dtype = torch.float32) -> Model:
    model = build(MODEL, dtype=dtype)
    model.init_weights(5)
    return model


def _batch() -> Batch:
    return batch_of(stream([16] * 4, 16, seed=1))


def record(path: str) -> None:
    """The decisions that the whole model takes for the batch."""
    with torch.no_grad():
        routing = _model().train()(_batch(), routing=True).routing
    assert routing is not None
    routing.save(path)


def real_step(run: RunConfig) -> StepCost:
    """One metered step of this gloo rank."""
    meshes = Meshes.of(over_ranks(run, dist.get_world_size()))
    ranks = ManyRanks(meshes, 1, checkpoint.Alone())
    model = _model(getattr(torch, run.train.dtype))
    ranks.lay_out(model)
    meter = Meter(axes(meshes))
    meter_dispatch(model, meter)
    objective = objectives.build(run.losses, run.model).over(ranks.whole_sums)
    return metered_step(TrainState.fresh(run, model, ranks), objective, run, [_batch()], meter)


def _counted(cost: StepCost) -> Counter[Any]:
    return Counter({replace(each, count=0): each.count for each in cost.collectives})


@pytest.mark.slow
def test_real_ranks_make_the_simulated_collectives(tmp_path: Path) -> None:
    record(str(tmp_path / "record"))
    load = Recorded.read(tmp_path / "record")
    pool = Pool.start(2, tmp_path / "store")
    try:
        for name, run in RUNS.items():
            first, last = pool.run(real_step, run)
            found = simulate(run, over_ranks(run, 2), load)
            planned = memory(work_of(run, over_ranks(run, 2)), "balanced")
            for real, simulated in ((first, found["first"].cost), (last, found["last"].cost)):
                assert _counted(real) == _counted(simulated), name
                assert real.flops == simulated.flops, name
                for part in ("weights", "gradients", "optimiser"):
                    assert getattr(real.memory, part) == getattr(simulated.memory, part), name
                peak, planned = (
                    real.memory.peak,
                    memory(work_of(run, over_ranks(run, 2)), "balanced"),
                )
                assert peak == pytest.approx(simulated.memory.peak, rel=0.1), name
                assert peak == pytest.approx(planned.peak, rel=0.1), (name, planned.fullest)
    finally:
        pool.stop()
