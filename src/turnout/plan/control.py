"""What ranks agree on in every step, beside rows and weights: counts, losses, statistics, norms.

Small, but each waits for all: the trainer's (``train.ranks``) and Adafactor's means over weights
that ranks share out.
"""

from collections import Counter
from collections.abc import Iterator
from math import prod

from turnout.config.optimizers import AdafactorConfig
from turnout.plan.collective import Axis, Collective
from turnout.plan.weights import Gathered, Held
from turnout.plan.work import FLOAT, Work

WIDE = 8  # bytes of a float64
COUNTED = 7  # numbers that a step's batches are counted by
TERMS = 10  # the terms of the loss, and their weighted sum
Group = tuple[Axis, int, int]
"""An axis, its ranks, and how far apart they are."""


def control(work: Work) -> Iterator[Collective]:
    """The collectives of one step over all ranks, those over parts of norms, and the optimiser's
    means."""
    ranks = work.plan.ranks
    if ranks == 1:
        return
    layers = [
        (moe.num_experts, (moe.in_feed_forward + 2 * moe.in_attention) * count)
        for part in work.stacks
        for moe, count in part.sparse
    ]
    agreed = {
        "counts and signals": [(COUNTED + 2 * ranks, 1)],
        "terms of the loss": [(TERMS, 1)],
        "norm of the gradient": [(1, 1)],
        "statistics of layers": [(sum(6 * (experts + 1) * n for experts, n in layers), 1)],
        "sums of routers": [(5 * experts + 1, n) for experts, n in layers if _scoped(work)],
    }
    for what, calls in agreed.items():
        for numbers, count in calls:
            if numbers:
                yield Collective(what, "all_reduce", "world", ranks, 1, count, numbers * WIDE)
    yield from _partial_gradients(work)
    if work.config.optimizer.kind == AdafactorConfig.kind:
        yield from _means(work)


def _scoped(work: Work) -> bool:
    """Whether a loss is of the sums of all ranks."""
    losses = work.config.losses
    return losses.scope != "group" and bool(losses.balance or losses.importance or losses.load)


def _partial_gradients(work: Work) -> Iterator[Collective]:
    """Weights that tensor ranks hold whole and use for their heads or their tokens alone: one sum
    of all their gradients."""
    plan = work.plan
    size = sum(
        part.kept * repeat
        for part, repeat in work.sharding.parts
        if part.weight.partial == "heads" or (part.weight.partial == "tokens" and plan.sequence)
    )
    if plan.tensor > 1 and size:
        what = "gradients of norms"
        yield Collective(what, "all_reduce", "tensor", plan.tensor, 1, 1, size * FLOAT)


def _means(work: Work) -> Iterator[Collective]:
    """Adafactor's: of squares by row and by column, of the rows' means, and the two sizes that
    its step is scaled by."""
    found: Counter[tuple[Group, int]] = Counter()
    for each in work.sharding.gathered:
        for part in each.parts:
            for call in _means_of(work, each, part):
                found[call] += each.unit.repeat
    for ((axis, group, stride), size), count in found.items():
        yield Collective(
            "Adafactor's means", "all_reduce", axis, group, stride, count, size * FLOAT
        )


def _means_of(work: Work, each: Gathered, part: Held) -> Iterator[tuple[Group, int]]:
    """Each call's group and entries, for one weight."""
    optimizer = work.config.optimizer
    assert isinstance(optimizer, AdafactorConfig)
    stacked = part.weight.role == "experts"
    dims = min(len(part.shape) - stacked, 2)
    cuts = _cuts(work, each, part)

    def mean(shape: tuple[int, ...], dim: int) -> Iterator[tuple[Group, int]]:
        for cut, group in cuts:
            if cut == dim % len(shape):
                yield group, prod(shape) // shape[dim]

    shape = part.shape
    rows = (*shape[:-1], 1)
    if dims == 2 and min(part.weight.shape[-2:]) >= optimizer.min_factored:
        yield from (*mean(shape, -1), *mean(shape, -2), *mean(rows, -2))
    for _ in range(2):
        yield from mean(shape, -1)
        if dims == 2:
            yield from mean(rows, -2)


def _cuts(work: Work, each: Gathered, part: Held) -> list[tuple[int, Group]]:
    """The dimensions that ranks share out, and which ranks."""
    plan, found = work.plan, list[tuple[int, Group]]()
    apart = each.apart and plan.expert > 1
    if apart:
        found.append((0, ("expert", plan.expert, plan.tensor)))
    if part.weight.split is not None and plan.tensor > 1:
        found.append((part.weight.split, ("tensor", plan.tensor, 1)))
    if part.shards > 1:
        near = plan.tensor * (plan.expert if apart else 1)
        found.append((part.dim, ("expert shard" if apart else "shard", part.shards, near)))
    return found
