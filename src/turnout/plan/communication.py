"""What one training step exchanges: each kind of collective, over whom, how often, how large.

``size`` is the bytes of the larger of the two buffers that a rank hands to a call: what an
all-gather makes, what a reduce-scatter takes, what an all-reduce sums, what an all-to-all sends
with its own part in it. Collectives over one rank alone are left out.
"""

from collections.abc import Iterator
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
    """Layers are gathered for the forward pass and again for the backward one; what stands
    around them once. Gradients are scattered, then summed over replicas, in every micro-batch."""
    plan, steps = work.plan, work.config.train.micro_batches
    if plan.batch_ranks == 1:
        return
    for each in work.sharding.gathered:
        unit, parts, apart = each.unit, each.parts, each.apart
        shards = plan.expert_fsdp if apart else plan.dense_shards
        copies = plan.expert_replicas if apart else plan.dense_replicas
        near = plan.tensor * (plan.expert if apart else 1)
        whole = sum(part.whole for part in parts) * FLOAT
        kept = sum(part.kept for part in parts) * FLOAT
        passes = 1 if unit.name == ROOT else 2 + work.counting
        axis: Axis = "expert shard" if apart else "shard"
        calls = unit.repeat * steps
        yield Collective(
            f"weights, {unit.name}", "all_gather", axis, shards, near, calls * passes, whole
        )
        yield Collective(
            f"gradients, {unit.name}", "reduce_scatter", axis, shards, near, calls, whole
        )
        other: Axis = "expert replica" if apart else "replica"
        yield Collective(
            f"gradients, {unit.name}", "all_reduce", other, copies, near * shards, calls, kept
        )


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
