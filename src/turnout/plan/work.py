"""What one rank computes in one micro-batch: rows, tokens, and how many rows reach its experts.

Axes: R rows, S tokens of a row, T tokens, K choices a token, N assignments, M rows of the experts.
"""

import math
from dataclasses import dataclass
from typing import Literal

from turnout.config.arithmetic import lengths
from turnout.config.counts import Stack
from turnout.config.moe import DocumentGroup, MoEConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.plan.weights import Gathered, Unit, gathered, units

Load = Literal["balanced", "expected", "worst"]
FLOAT = 4  # bytes of weights, gradients, optimiser state, norms and routers
INDEX = 8  # bytes of an int64


@dataclass(frozen=True)
class StackWork:
    """One stack's share of a micro-batch on one rank."""

    stack: Stack
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Work:
    """A micro-batch of one rank. ``entry`` is the bytes of an entry of the computation, ``wire``
    of what travels to experts."""

    config: RunConfig
    plan: ParallelPlan
    stacks: tuple[StackWork, ...]
    weights: tuple[Gathered, ...]
    entry: int
    wire: int

    @property
    def spread(self) -> int:
        """Ranks that share out the tokens between attention and feed-forward networks; a sparse
        layer is computed of all tokens on each of them."""
        return self.plan.tensor if self.plan.sequence else 1

    @property
    def counting(self) -> bool:
        """Whether a pass without gradient counts the tokens of each expert first."""
        losses, moe = self.config.losses, self.config.model.moe
        scoped = losses.balance or losses.importance or losses.load
        several = self.config.train.micro_batches > 1
        return bool(moe is not None and losses.scope == "batch" and scoped and several)

    @property
    def passes(self) -> int:
        """Forward passes through the layers."""
        return 1 + self.config.train.recompute + self.counting


def work_of(config: RunConfig, plan: ParallelPlan, found: tuple[Unit, ...] | None = None) -> Work:
    """What each rank of ``plan`` computes in a micro-batch; all batch ranks have as many rows.

    Args:
        plan: with its sizes as numbers.
        found: the model's ``units``, where many layouts of one model are looked at.
    """
    entry = entry_bytes(config)
    rows = config.train.micro_batch_rows // plan.batch_ranks
    stacks = tuple(
        StackWork(stack, rows, length)
        for stack, length in zip(config.model.stacks(), lengths(config.model), strict=True)
    )
    wire = 2 if plan.wire == "bfloat16" else entry
    weights = gathered(units(config.model) if found is None else found, plan)
    return Work(config, plan, stacks, weights, entry, wire)


def entry_bytes(config: RunConfig) -> int:
    """Bytes of an entry of the computation; ``auto`` is taken as bfloat16."""
    return FLOAT if config.train.dtype == "float32" else 2


def routed(work: Work, part: StackWork, moe: MoEConfig, load: Load) -> int:
    """Rows that the experts of one rank compute in a layer of ``part``.

    ``balanced``: as many as the rank sends. ``expected``: of the fullest rank where a router
    chooses evenly at random. ``worst``: all experts of the rank full, to their capacity in every
    group of every rank; without one, every token of the ranks that share the experts, as often as
    it can choose experts of the rank.
    """
    expert, tokens = work.plan.expert, part.tokens
    local = moe.num_experts // expert
    assignments = tokens * moe.router.active
    bound = tokens * expert * min(moe.router.active, local)
    slots = _slots(part, moe)
    if slots is not None:
        bound = min(bound, slots * local * expert)
    if load == "worst":
        return bound
    if load == "balanced":
        return min(assignments, bound)
    return min(math.ceil(assignments * fullest(assignments * expert, expert)), bound)


def _slots(part: StackWork, moe: MoEConfig) -> int | None:
    """Slots of an expert for the tokens of one rank; None where they are not bounded."""
    if moe.group.kind == DocumentGroup.kind:
        return None
    group = moe.group.rows * part.length
    capacity = moe.expert_capacity(moe.train_capacity_factor, group)
    return None if capacity is None else -(-part.tokens // group) * capacity


def fullest(draws: int, places: int) -> float:
    """The fullest of ``places`` over their mean, where ``draws`` fall evenly at random.

    The mean of the largest of n standard normals is near sqrt(2 ln n); a place's count has mean
    draws / places and nearly the variance of the same size.
    """
    if places == 1 or draws == 0:
        return 1.0
    mean = draws / places
    return min(1.0 + math.sqrt(2.0 * math.log(places) * (1 - 1 / places) / mean), float(places))
