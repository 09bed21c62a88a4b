"""What one training step exchanges: each kind of collective, over whom, how often, how large.

``size`` is the bytes of the larger of the two buffers that a rank hands to a call: what an
all-gather makes, what a reduce-scatter takes, what an all-reduce sums, what an all-to-all sends
with its own part in it. Collectives over one rank alone are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from turnout.plan.collective import Axis, Collective
from turnout.plan.control import control
from turnout.plan.tensor import widths
from turnout.plan.weights import ROOT
from turnout.plan.work import FLOAT, INDEX, Load, Work, routed


def collectives(work: Work, load: Load) -> tuple[Collective, ...]:
    """Of one step, all micro-batches together."""
    found = (*_weights(work), *_tokens(work, load), *widths(work), *control(work))
    return tuple(each for each in found if each.group > 1 and each.count)


def _weights(work: Work) -> Iterator[Collective]:
    """Layers are gathered for the forward pass and again for the backward one, in the dtype of
    the computation; what is wide once, in float32. Gradients are scattered, then summed over
    replicas, in every micro-batch and in float32."""
    if work.plan.batch_ranks == 1:
        return
    for each in work.sharding.layers:
        unit = each.unit
        entries = _Entries(each.whole, each.kept, work.entry, unit.repeat, 2 + work.counting)
        yield from _unit(work, unit.name, entries, apart=each.apart)
    wide = work.sharding.wide
    whole = sum(each.whole * each.unit.repeat for each in wide)
    kept = sum(each.kept * each.unit.repeat for each in wide)
    yield from _unit(work, ROOT, _Entries(whole, kept, FLOAT, 1, 1), apart=False)


@dataclass(frozen=True)
class _Entries:
    """What is gathered together in each of ``repeat`` layers: ``whole`` entries of ``size`` bytes
    in ``passes``, of which a rank has ``kept``."""

    whole: int
    kept: int
    size: int
    repeat: int
    passes: int


def _unit(work: Work, name: str, of: _Entries, *, apart: bool) -> Iterator[Collective]:
    plan = work.plan
    shards = plan.expert_fsdp if apart else plan.dense_shards
    copies = plan.expert_replicas if apart else plan.dense_replicas
    near = plan.tensor * (plan.expert if apart else 1)
    axis: Axis = "expert shard" if apart else "shard"
    other: Axis = "expert replica" if apart else "replica"
    calls = of.repeat * work.config.train.micro_batches
    weights, sums = f"weights, {name}", f"gradients, {name}"
    there, back = of.whole * of.size, of.whole * FLOAT
    yield Collective(weights, "all_gather", axis, shards, near, calls * of.passes, there)
    yield Collective(sums, "reduce_scatter", axis, shards, near, calls, back)
    yield Collective(sums, "all_reduce", other, copies, near * shards, calls, of.kept * FLOAT)


def _tokens(work: Work, load: Load) -> Iterator[Collective]:
    """Rows to experts and back, and their gradients; recomputed layers send them again."""
    plan, train = work.plan, work.config.train
    if plan.expert == 1:
        return
    forward = 1 + train.recompute + work.counting
    for part in work.stacks:
        for moe, layer in part.sparse:
            calls = layer * train.micro_batches
            rows = routed(work, part, moe, load) * part.stack.d_model * work.wire
            of, counts = f"{part.stack.name} experts", moe.num_experts * INDEX
            over = partial(Collective, axis="expert", group=plan.expert, stride=plan.tensor)
            yield over(f"row counts, {of}", "all_to_all", count=calls * forward, size=counts)
            both = 2 * (forward + 1)
            yield over(f"rows, {of}", "all_to_all", count=calls * both, size=rows)
