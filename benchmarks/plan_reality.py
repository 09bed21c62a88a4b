"""Holds `turnout plan` against training steps of two real ranks: memory at its peak, bytes sent.

    python benchmarks/plan_reality.py > docs/results/plan-reality.md

Every run is a step of a preset on two gloo ranks of one thread, on rows of random tokens that fill
their length. A dispatch mode sees all operators of a rank and counts the bytes of storages that are
alive; the plan's figure is that of balanced loads. Beside it stands by how much the memory of the
process grew, which no plan of tensors knows: what the allocator keeps, kernels' scratch and gloo's
buffers. Nothing is dropped, so that all ranks together send each other as much as the plan says,
whoever sends it.
"""

import argparse
import multiprocessing as mp
import os
import platform
import statistics
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from turnout import objectives
from turnout.checkpoint import ranks as checkpoint
from turnout.config import io, presets
from turnout.config.layout import over_ranks
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models.build import build
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.plan.communication import collectives
from turnout.plan.memory import memory
from turnout.plan.work import work_of
from turnout.simulate.collectives import axes
from turnout.simulate.meter import Meter, meter_dispatch
from turnout.simulate.simulation import batch_of
from turnout.simulate.step import StepCost, metered_step
from turnout.train.host_memory import keep_freed_memory
from turnout.train.state import TrainState

RANKS = 2
LAYOUTS = {
    "FSDP": {},
    "data parallel": {"parallel.fsdp": "1"},
    "expert parallel": {"parallel.expert": "2"},
    "tensor parallel": {"parallel.tensor": "2"},
}
SIZES: dict[str, tuple[str, dict[str, str]]] = {
    "switch_tiny": ("switch_tiny", {}),
    "switch_mini": ("switch_mini", {"objective": "span"}),
    "switch_base of 4 experts": (
        "switch_base",
        {"model.moe.num-experts": "4", "model.moe.group.rows": "1", "train.batch-rows": "8"},
    ),
}


@dataclass(frozen=True)
class Seen:
    """Of one rank: what its step took, and bytes by which the process grew."""

    cost: StepCost
    grown: int


def run_of(size: str, layout: str, dtype: str) -> RunConfig:
    """One micro-batch, and nothing dropped."""
    preset, options = SIZES[size]
    given = {"train.dtype": dtype, "train.micro-batches": "1", **options, **LAYOUTS[layout]}
    objective = given.pop("objective", None)
    run = presets.run(preset, objective)
    return io.override(run, {"model.moe.train-capacity-factor": "none", **given})


def filled(run: RunConfig) -> Batch:
    """Rows as a simulation has them, of random tokens."""
    batch = batch_of(run.model, run.train.micro_batch_rows)
    streams = [part for part in (batch.encoder, batch.decoder) if part is not None]
    made = [_random(part, run.model.vocab_size) for part in streams]
    encoder = made[0] if len(made) > 1 else None
    return replace(batch, encoder=encoder, decoder=made[-1], targets=made[-1].ids)


def _random(stream: Stream, vocabulary: int) -> Stream:
    return replace(stream, ids=torch.randint_like(stream.ids, 3, vocabulary))


def resident(field: str) -> int:
    """Bytes of this process now (VmRSS), or the most there were since it was last asked to forget
    (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def as_rank(rank: int, store: str, run: RunConfig, pipe: Connection) -> None:
    """One step of one rank."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    before = resident("VmRSS")
    meshes = Meshes.of(over_ranks(run, RANKS))
    ranks = ManyRanks(meshes, 1, checkpoint.Alone())
    model = build(run.model, dtype=getattr(torch, run.train.dtype), recompute=run.train.recompute)
    model.init_weights(0)
    ranks.lay_out(model)
    meter = Meter(axes(meshes))
    meter_dispatch(model, meter)
    objective = objectives.build(run.losses, run.model).over(ranks.whole_sums)
    state = TrainState.fresh(run, model, ranks)
    batches = [filled(run) for _ in range(run.train.micro_batches)]
    Path("/proc/self/clear_refs").write_text("5")
    cost = metered_step(state, objective, run, batches, meter)
    pipe.send(Seen(cost, resident("VmHWM") - before))
    dist.destroy_process_group()


def see(run: RunConfig) -> list[Seen]:
    """All ranks' steps."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(RANKS)]
        store = str(Path(folder) / "store")
        ranks = [
            context.Process(target=as_rank, args=(rank, store, run, pipes[rank][1]))
            for rank in range(RANKS)
        ]
        for rank in ranks:
            rank.start()
        for _, theirs in pipes:
            theirs.close()
        found = [ours.recv() for ours, _ in pipes]
        for rank in ranks:
            rank.join()
    return found


def sent(run: RunConfig, found: list[Seen]) -> tuple[Counter[str], Counter[str]]:
    """Bytes of all collectives by operation: planned for all ranks, and counted on them."""
    planned, counted = Counter[str](), Counter[str]()
    for each in collectives(work_of(run, over_ranks(run, RANKS)), "balanced"):
        planned[each.operation] += RANKS * each.count * each.size
    for rank in found:
        for call in rank.cost.collectives:
            counted[call.operation] += call.count * call.size
    return planned, counted


def row(size: str, layout: str, dtype: str, run: RunConfig) -> str:
    """One line of the table."""
    found = see(run)
    planned = memory(work_of(run, over_ranks(run, RANKS)), "balanced")
    peak = max(seen.cost.memory.peak for seen in found)
    grown = statistics.mean(seen.grown for seen in found)
    expected, counted = sent(run, found)
    equal = "equal" if expected == counted else f"{sum(counted.values())} counted"
    return (
        f"| {size}, {layout} | {dtype} | {planned.peak / 1e6:,.1f} | {peak / 1e6:,.1f} | "
        f"{planned.peak / peak - 1:+.1%} | {planned.fullest.name} | {grown / 1e6:,.0f} | "
        f"{sum(expected.values()) / 1e6:,.1f} | {equal} |"
    )


def main() -> None:
    """Prints the page as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    print(
        "# The plan against real ranks\n\nPeak memory of one rank of two, in MB: planned, and the "
        "most that was alive at once in a real step; growth is of the whole process, mean of both "
        "ranks. Sent are bytes of all collectives of both ranks, planned, and whether each "
        "operation's are those counted.\n\n"
        f"Command: `python benchmarks/plan_reality.py`; torch {torch.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores.\n\n"
        "| run | dtype | planned | counted | apart | fullest in | growth | sent | counted |\n"
        + "|---" * 9
        + "|"
    )
    for size in options.sizes:
        for dtype in options.dtypes:
            for layout in options.layouts:
                run = run_of(size, layout, dtype)
                print(row(size, layout, dtype, run), flush=True)


if __name__ == "__main__":
    main()
