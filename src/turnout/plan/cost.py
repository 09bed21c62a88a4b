"""The time of a step by a roofline, and what a budget of tokens takes: days, energy, money.

A part of the computation takes the longer of its arithmetic at the peak of the products and its
traffic at the bandwidth of the memory. A collective takes the longer of what it sends inside a
node and what it sends between nodes.
"""

import math
from dataclasses import dataclass

from turnout.plan.activations import made
from turnout.plan.collective import Collective
from turnout.plan.communication import collectives
from turnout.plan.hardware import Assumptions, Device, Prices
from turnout.plan.memory import Memory
from turnout.plan.work import Load, Work, routed

UPDATE = 8  # times that an update reads or writes an entry of a weight's size
PASSES = 3  # forward, and two products of the backward pass


@dataclass(frozen=True)
class Time:
    """Seconds of one step on the slowest rank.

    ``dense``, ``experts`` and ``head`` are products, ``elementwise`` everything that only moves
    memory; ``waiting`` is what the others wait for the fullest and the slowest rank; ``exchange``
    are collectives that nothing hides, ``sharding`` what is not hidden of those of weights.
    """

    dense: float
    experts: float
    head: float
    elementwise: float
    update: float
    waiting: float
    exchange: float
    sharding: float

    @property
    def step(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """All parts by name; they add up to the step."""
        return dict(vars(self))


@dataclass(frozen=True)
class Outlook:
    """What a budget of tokens takes; a figure is None where nothing was given to make it from."""

    tokens_a_step: int
    tokens_a_day: float
    steps: int | None
    seconds: float | None
    kilowatt_hours: float | None
    cost: float | None
    utilisation: float


def step_time(work: Work, device: Device, assumed: Assumptions, memory: Memory) -> Time:
    """One step where routers choose evenly at random.

    Args:
        memory: that of the same layout, for what the optimiser updates.
    """
    parts = _compute(work, device, assumed)
    computing = sum(parts.values())
    uneven = parts["experts"] * (_share(work, "expected") / _share(work, "balanced") - 1)
    slowest = assumed.jitter * math.sqrt(2 * math.log(work.plan.ranks))
    waiting = uneven + slowest * (computing + uneven)
    found = collectives(work, "expected")
    exchange = math.fsum(seconds_of(each, device, assumed) for each in found if not each.hidden)
    hidden = math.fsum(seconds_of(each, device, assumed) for each in found if each.hidden)
    exposed = max(hidden - assumed.overlap * computing, (1 - assumed.overlap) * hidden)
    update = UPDATE * memory.weights / _bytes_a_second(device, assumed)
    return Time(**parts, update=update, waiting=waiting, exchange=exchange, sharding=exposed)


def outlook(
    work: Work, device: Device, time: Time, prices: Prices, budget: float | None
) -> Outlook:
    """Days, energy and money of ``budget`` tokens; money only where prices are given."""
    ranks = work.plan.ranks
    tokens = tokens_a_step(work)
    steps = None if budget is None else math.ceil(budget / tokens)
    seconds = None if steps is None else steps * time.step
    energy = None
    cost = None
    if seconds is not None:
        energy = ranks * device.power * prices.overhead * seconds / 3.6e6
        bills = [
            None if prices.hour is None else prices.hour * ranks * seconds / 3600,
            None if prices.kilowatt_hour is None else prices.kilowatt_hour * energy,
        ]
        paid = [bill for bill in bills if bill is not None]
        cost = sum(paid) if paid else None
    flops = PASSES * work.anatomy.row.total * work.config.train.batch_rows
    peak = ranks * device.products(work.entry)
    return Outlook(
        tokens_a_step=tokens,
        tokens_a_day=tokens / time.step * 86_400,
        steps=steps,
        seconds=seconds,
        kilowatt_hours=energy,
        cost=cost,
        utilisation=flops / (peak * time.step),
    )


def tokens_a_step(work: Work) -> int:
    """Tokens of one step in all stacks, over all ranks."""
    rows = work.config.train.batch_rows
    return rows * work.anatomy.row_tokens


def _compute(work: Work, device: Device, assumed: Assumptions) -> dict[str, float]:
    """Seconds of a step's computation on a rank with the mean load, by part."""
    train, tensor, model = work.config.train, work.plan.tensor, work.config.model
    parts = work.anatomy.row
    again = PASSES + train.recompute + work.counting
    peak = device.products(work.entry) * assumed.compute
    moved = _bytes_a_second(device, assumed)
    matrices, experts = work.sharding.matrices, work.sharding.experts
    rows = _share(work, "balanced")

    def roofline(flops: float | int, entries: int, passes: int) -> float:
        """Of one row's operations, and the entries of the matrices that a pass reads."""
        longer = max(work.rows * flops / peak, entries * work.entry / moved)
        return train.micro_batches * passes * longer

    dense = parts.total - parts.experts - parts.head - parts.router
    return {
        "dense": roofline(dense / tensor + parts.router, matrices - experts, again),
        "experts": roofline(parts.experts * rows / tensor, experts, again),
        "head": roofline(parts.head, model.vocab_size * model.d_model, PASSES),
        "elementwise": train.micro_batches * again * made(work, "balanced").total / moved,
    }


def _bytes_a_second(device: Device, assumed: Assumptions) -> float:
    return device.bandwidth * assumed.memory


def _share(work: Work, load: Load) -> float:
    """Rows of this rank's experts over those it sends, over all sparse layers."""
    rows = sent = 0
    for part in work.stacks:
        for moe, count in part.sparse:
            rows += count * routed(work, part, moe, load)
            sent += count * part.routed * moe.router.active
    return rows / sent if sent else 1.0


def seconds_of(each: Collective, device: Device, assumed: Assumptions) -> float:
    """All calls of one kind. Each device of a node brings its own adapter, so that the ranks of a
    group that share a node share out what goes to other nodes; pairs each send their own."""
    near = min(each.group, max(1, device.node // each.stride))
    far = -(-each.group // near)
    exchange = each.operation == "all_to_all"
    inside = each.sent * (near - 1) / (each.group - 1) if exchange else each.sent
    outside = each.sent - inside if exchange else each.sent / near
    seconds = 0.0
    if near > 1:
        seconds = inside / (device.link * assumed.link)
    if far > 1:
        seconds = max(seconds, outside / (device.across(exchange) * assumed.link))
    hops = math.ceil(math.log2(each.group)) * (2 if each.operation == "all_reduce" else 1)
    return each.count * (seconds + hops * assumed.latency)
