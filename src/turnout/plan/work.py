"""What one rank computes in one micro-batch: rows, tokens, and how many rows reach its experts.

Axes: R rows, S tokens of a row, T tokens, K choices a token, N assignments, M rows of the experts.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from turnout.config.arithmetic import forward_parts, lengths
from turnout.config.counts import Stack
from turnout.config.flops import Flops
from turnout.config.model import ModelConfig
from turnout.config.moe import DocumentGroup, MoEConfig
from turnout.config.parallel import ParallelPlan
from turnout.config.train import RunConfig
from turnout.plan.weights import Sharding, Unit, sharding, units

Load = Literal["balanced", "expected", "worst"]
LOADS: tuple[Load, ...] = ("balanced", "expected", "worst")
FLOAT = 4  # bytes of weights, gradients, optimiser state, norms and routers
INDEX = 8  # bytes of an int64


@dataclass(frozen=True)
class StackWork:
    """One stack's share of a micro-batch on one rank; ``kinds`` are its layers that differ, None
    for a dense one, and how many there are of each. Of ``length`` positions ``padding`` are there
    for the tensor ranks to share them out evenly; nothing is routed for them."""

    stack: Stack
    rows: int
    length: int
    kinds: tuple[tuple[MoEConfig | None, int], ...]
    padding: int = 0

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def routed(self) -> int:
        """Tokens that a sparse layer routes."""
        return self.rows * (self.length - self.padding)

    @property
    def sparse(self) -> tuple[tuple[MoEConfig, int], ...]:
        """The kinds of sparse layers."""
        return tuple((moe, count) for moe, count in self.kinds if moe is not None)


@dataclass(frozen=True)
class Anatomy:
    """What all layouts of a model share: its weights, its stacks with one row, and the arithmetic
    of a row."""

    units: tuple[Unit, ...]
    stacks: tuple[StackWork, ...]
    row: Flops

    @property
    def row_tokens(self) -> int:
        """Tokens of a row in all stacks."""
        return sum(part.length for part in self.stacks)

    @staticmethod
    def of(model: ModelConfig) -> "Anatomy":
        """That of ``model``."""
        stacks = tuple(
            StackWork(stack, 1, length, _kinds(stack))
            for stack, length in zip(model.stacks(), lengths(model), strict=True)
        )
        return Anatomy(units(model), stacks, forward_parts(model, 1))


@dataclass(frozen=True)
class Work:
    """A micro-batch of one rank. ``entry`` is the bytes of an entry of the computation, ``wire``
    of what travels to experts."""

    config: RunConfig
    plan: ParallelPlan
    anatomy: Anatomy
    stacks: tuple[StackWork, ...]
    sharding: Sharding
    entry: int
    wire: int

    @property
    def rows(self) -> int:
        """Rows of each stack."""
        return self.stacks[0].rows

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


def work_of(
    config: RunConfig,
    plan: ParallelPlan,
    anatomy: Anatomy | None = None,
    found: Sharding | None = None,
) -> Work:
    """What each rank of ``plan`` computes in a micro-batch; all batch ranks have as many rows.

    Args:
        plan: with its sizes as numbers.
        anatomy: the model's, where many layouts of it are looked at.
        found: the shards of ``plan``, where they are known.
    """
    anatomy = Anatomy.of(config.model) if anatomy is None else anatomy
    found = sharding(anatomy.units, plan) if found is None else found
    rows = config.train.micro_batch_rows // plan.batch_ranks
    filled = plan.tensor if plan.sequence else 1  # rows are padded so that tokens come out even
    stacks = tuple(
        replace(part, rows=rows, length=part.length + pad, padding=pad)
        for part in anatomy.stacks
        for pad in (-part.length % filled,)
    )
    entry = entry_bytes(config)
    wire = 2 if plan.wire == "bfloat16" else entry
    return Work(config, plan, anatomy, stacks, found, entry, wire)


def _kinds(stack: Stack) -> tuple[tuple[MoEConfig | None, int], ...]:
    kinds = Counter[MoEConfig | None](stack.sparse)
    dense = stack.num_layers - len(stack.sparse)
    return (*kinds.items(), *([(None, dense)] if dense else []))


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
    expert, tokens = work.plan.expert, part.routed
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
    length = part.length - part.padding
    group = moe.group.rows * length
    capacity = moe.expert_capacity(moe.train_capacity_factor, group)
    return None if capacity is None else -(-part.routed // group) * capacity


def fullest(draws: int, places: int) -> float:
    """The fullest of ``places`` over their mean, where ``draws`` fall evenly at random.

    The mean of the largest of n standard normals is near sqrt(2 ln n); a place's count has mean
    draws / places and nearly the variance of the same size.
    """
    if places == 1 or draws == 0:
        return 1.0
    mean = draws / places
    return min(1.0 + math.sqrt(2.0 * math.log(places) * (1 - 1 / places) / mean), float(places))
