"""Times, days, energy and money by hand, on a device of round figures."""

import math
from dataclasses import replace

import pytest

from tests.plan.cases import DEVICE, RUN, over, trained
from turnout.config.errors import ConfigError
from turnout.plan.collective import Collective
from turnout.plan.cost import Time, outlook, seconds_of, step_time
from turnout.plan.hardware import Assumptions, Prices
from turnout.plan.memory import memory
from turnout.plan.work import work_of

PEAK = Assumptions(
    compute=1.0, memory=1.0, link=1.0, overlap=1.0, jitter=0.0, reserve=0.0, latency=0.0
)


def test_a_ring_inside_a_node_and_between_nodes() -> None:
    """Nodes of four; links of 10 kB/s, a network of 1 kB/s."""
    near = Collective("w", "all_gather", "shard", 4, 1, 2, 4000)
    assert seconds_of(near, DEVICE, PEAK) == pytest.approx(2 * 3000 / 1e4)
    # 8 ranks, 7/8 of 8 kB; four of a node share out what leaves it: 7,000 / 4 at 1 kB/s
    far = Collective("w", "all_gather", "shard", 8, 1, 1, 8000)
    assert seconds_of(far, DEVICE, PEAK) == pytest.approx(7000 / 4 / 1e3)
    # 6 ranks, 5/6 of 6 kB: the last two stand in a second node
    more = replace(far, group=6, size=6000)
    assert seconds_of(more, DEVICE, PEAK) == pytest.approx(5000 / 4 / 1e3)
    # four ranks apart each node has one of the group: nothing is inside
    apart = Collective("w", "reduce_scatter", "shard", 2, 4, 1, 8000)
    assert seconds_of(apart, DEVICE, PEAK) == pytest.approx(4000 / 1e3)
    assert seconds_of(replace(near, operation="all_reduce"), DEVICE, PEAK) == pytest.approx(1.2)


def test_pairs_send_their_own_between_nodes() -> None:
    """8 ranks, 800 B to each: 3 of 7 pairs in the node, 4 beyond, each by its own adapter."""
    each = Collective("rows", "all_to_all", "expert", 8, 1, 1, 6400)
    assert seconds_of(each, DEVICE, PEAK) == pytest.approx(4 * 800 / 1e3)
    torus = replace(DEVICE, exchange=100.0)
    assert seconds_of(each, torus, PEAK) == pytest.approx(4 * 800 / 100)


def test_latency_is_paid_a_call_and_hop() -> None:
    slow = replace(PEAK, latency=1.0)
    empty = Collective("n", "all_reduce", "world", 8, 1, 5, 0)
    assert seconds_of(empty, DEVICE, slow) == 5 * 2 * 3


def test_a_step_of_one_process_by_the_roofline() -> None:
    """Two rows of 6 tokens, float32 products at 1 MFLOP/s, memory at 1 MB/s."""
    work = work_of(trained(batch_rows=2, eval_rows=2), over(1))
    held = memory(work, "expected")
    time = step_time(work, DEVICE, PEAK, held)
    # a token: projections 2 x 4 x 64 in two layers 1,024, scores 4 x 6 x 8 twice 384, network
    # 2 x 256 = 512, router 2 x 32 = 64: 1,984; three passes of 12 tokens
    assert time.dense == pytest.approx(3 * 12 * 1984 / 1e6)
    # the expert of a token 512 operations; but three passes read 1,024 entries of 4 bytes
    assert time.experts == pytest.approx(3 * max(12 * 512, 4096) / 1e6)
    # logits 2 x 80 operations a token
    assert time.head == pytest.approx(3 * 12 * 160 / 1e6)
    assert time.update == pytest.approx(8 * 4 * 1944 / 1e6)
    assert time.waiting == time.exchange == time.sharding == 0
    assert time.step == pytest.approx(math.fsum(time.parts().values()))


def test_few_rows_wait_for_the_weights_of_experts() -> None:
    """One row of 6 tokens: 6 x 512 operations take less than reading 4,096 bytes."""
    work = work_of(trained(batch_rows=1, eval_rows=1), over(1))
    time = step_time(work, DEVICE, PEAK, memory(work, "expected"))
    assert time.experts == pytest.approx(3 * 4096 / 1e6)


def test_stragglers() -> None:
    work = work_of(RUN, over(4, expert=2))
    held = memory(work, "expected")
    even = step_time(work, DEVICE, PEAK, held)
    # the fuller rank has 15 rows for the others' 12
    assert even.waiting == pytest.approx(even.experts * 3 / 12)
    slow = step_time(work, DEVICE, replace(PEAK, jitter=0.1), held)
    computing = even.dense + even.experts + even.head + even.elementwise + even.waiting
    assert slow.waiting - even.waiting == pytest.approx(
        0.1 * math.sqrt(2 * math.log(4)) * computing
    )


def test_overlap_hides_collectives_of_weights_alone() -> None:
    work = work_of(RUN, over(4, expert=2))
    held = memory(work, "expected")
    bare = step_time(work, DEVICE, replace(PEAK, overlap=0.0), held)
    half = step_time(work, DEVICE, replace(PEAK, overlap=0.5), held)
    assert half.exchange == bare.exchange
    assert bare.sharding > half.sharding >= bare.sharding / 2


def test_days_energy_and_money() -> None:
    work = work_of(RUN, over(4, expert=2))
    time = Time(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # two seconds a step
    prices = Prices(hour=3.6, kilowatt_hour=0.5, overhead=1.5)
    found = outlook(work, DEVICE, time, prices, 480.0)
    # 8 rows of 6 tokens a step: 10 steps, 20 s on four devices of 100 W
    assert found.tokens_a_step == 48
    assert found.tokens_a_day == 24 * 86_400
    assert (found.steps, found.seconds) == (10, 20)
    assert found.kilowatt_hours == pytest.approx(4 * 100 * 1.5 * 20 / 3.6e6)
    assert found.cost == pytest.approx(3.6 * 4 * 20 / 3600 + 0.5 * 12_000 / 3.6e6)
    # a row is 6 x (1,984 + 512 + 160) operations forward, three times that in training
    assert found.utilisation == pytest.approx(3 * 8 * 6 * 2656 / (4 * 1e6 * 2))


def test_no_budget_and_no_price_say_nothing() -> None:
    work, time = work_of(RUN, over(1)), Time(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert outlook(work, DEVICE, time, Prices(), None).seconds is None
    priceless = outlook(work, DEVICE, time, Prices(), 480.0)
    assert priceless.cost is None and priceless.kilowatt_hours is not None
    free = outlook(work, DEVICE, time, Prices(hour=0.0), 480.0)
    assert free.cost == 0


@pytest.mark.parametrize(
    ("name", "value"), [("compute", 0.0), ("link", 1.5), ("reserve", 1.0), ("overlap", -0.1)]
)
def test_assumptions_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"assume\.{name} = .*: must be"):
        Assumptions(**{name: value})
