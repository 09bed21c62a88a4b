"""Prints the collectives of one real training step, as the first of many ranks issues them.

The other ranks are torch's fake process group, which moves nothing: the model, the parallel code
and the step are the real ones, on real tensors. Only the counts that ranks would tell each other
are taken to be alike on all of them. Run as ``python -m tests.plan.counted RUNS``, with a list of
``[ranks, options]`` as JSON.
"""

import json
import sys
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import ProcessGroup
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.plan.cases import few
from turnout.config.arithmetic import lengths
from turnout.config.layout import over_ranks
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models.build import build
from turnout.objectives import build as build_objective
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.train.counts import Counts
from turnout.train.ranks import Alone
from turnout.train.state import TrainState
from turnout.train.step import optimiser_step

OPERATIONS = {
    "allreduce_": ("all_reduce", 0),
    "_allgather_base_": ("all_gather", 0),
    "allgather_": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_": ("reduce_scatter", 1),
    "alltoall_base_": ("all_to_all", 1),
}
"""The operator's name, ours, and which argument is the larger buffer."""


class Collectives(TorchDispatchMode):
    """Counts (operation, ranks, bytes) of every collective over more than one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, int, int]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            name, place = OPERATIONS[func._schema.name.split("::")[1]]
            group = next(g for g in map(_group, args) if g is not None)
            if group.size() > 1:
                size = sum(t.numel() * t.element_size() for t in tree_leaves(args[place]))
                self.seen[name, group.size(), size] += 1
        return out


def _group(argument: Any) -> ProcessGroup | None:
    if not isinstance(argument, torch.ScriptObject):
        return None
    try:
        return ProcessGroup.unbox(argument)
    except (RuntimeError, TypeError):
        return None  # the operation of a reduction


def _same(sent: torch.Tensor, group: ProcessGroup) -> Any:
    """Every rank is taken to send what this one does."""
    dist.all_to_all_single(torch.empty_like(sent), sent.contiguous(), group=group)
    here = tuple(sent.sum(1).tolist())
    return here, here, sent


def _batch(run: RunConfig, rows: int) -> Batch:
    def stream(length: int) -> Stream:
        ids = torch.randint(1, run.model.vocab_size, (rows, length))
        ones = torch.ones_like(ids)
        place = torch.arange(length).expand(rows, length).contiguous()
        return Stream(ids, ones.bool(), ones, place)

    streams = [stream(length) for length in lengths(run.model)]
    row = torch.arange(rows)
    decoder = streams[-1]
    encoder = streams[0] if len(streams) > 1 else None
    return Batch(decoder, decoder.ids, decoder.mask, row, row, encoder)


def count(ranks: int, options: dict[str, str]) -> list[list[Any]]:
    """The collectives of one step of a small run with these options."""
    run = few(options)
    plan = over_ranks(run, ranks)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    many = ManyRanks(Meshes.of(plan), 1, Alone().messages, counts=_same)
    model = build(run.model, recompute=run.train.recompute)
    model.init_weights(0)
    many.lay_out(model)
    state = TrainState.fresh(run, model, many)
    objective = build_objective(run.losses, run.model).over(many.whole_sums)
    batches = [_batch(run, run.train.micro_batch_rows) for _ in range(run.train.micro_batches)]
    with Collectives() as found:
        turn = many.turn(lambda: [1.0] * 7, 7, 0)
        assert turn.signal == 0
        own = many.share(batches)
        totals = objective.totals(own)
        optimiser_step(state, objective, own, run, Counts(totals, 1, 1))
    dist.destroy_process_group()
    return [[*key, number] for key, number in sorted(found.seen.items())]


if __name__ == "__main__":
    print(json.dumps([count(ranks, options) for ranks, options in json.loads(sys.argv[1])]))
