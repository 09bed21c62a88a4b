"""Columns and loads made short: what must stay is there."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.probe.report.loads import LoadHistory
from turnout.probe.report.thin import envelope, smoothed, width_of


def test_a_short_column_is_kept_whole():
    line = envelope([1, 2, 4], [3.0, math.nan, 5.0])
    assert (line.step, line.value) == ((1, 4), (3.0, 5.0))


def test_a_spike_of_one_step_is_drawn():
    values = [1.0] * 100_000
    values[77_777], values[33_333] = 50.0, -50.0
    line = envelope(range(100_000), values, most=200)
    assert len(line) <= 200
    assert dict(zip(line.step, line.value, strict=True))[77_777] == 50.0
    assert dict(zip(line.step, line.value, strict=True))[33_333] == -50.0
    assert list(line.step) == sorted(line.step)


def test_running_means_by_hand():
    # Seven steps, means of five: (0+1+2+3+4)/5 = 2 at the third, 3 and 4 behind it.
    assert width_of(7) == 5
    line = smoothed(range(10, 17), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert line.step == (12, 13, 14)
    assert line.value == pytest.approx((2.0, 3.0, 4.0))
    assert len(smoothed([1, 2], [1.0, 2.0])) == 0


def test_a_mean_covers_a_fortieth_of_the_run():
    assert width_of(4000) == 101
    line = smoothed(range(4000), [1.0] * 4000, most=50)
    assert len(line) == 50
    assert (line.step[0], line.step[-1]) == (50, 3949)


def test_loads_by_hand():
    loads = LoadHistory(most=2)
    for number in (1, 2, 3):
        loads.add(number, [3.0, 1.0])
    loads.add(4, [0.0, 4.0])
    # Three spans are too many: width 2 has steps 1, 2-3 and 4; width 4 has 1-3 and 4.
    first, last = loads.spans()
    assert (first.first, first.last, first.shares) == (1, 3, (0.75, 0.25))
    assert (last.first, last.last, last.shares) == (4, 4, (0.0, 1.0))
    (whole,) = loads.spans(1)
    assert whole.shares == (9 / 16, 7 / 16)
    assert len(loads.spans()) == 2


def test_loads_that_are_none():
    loads = LoadHistory()
    loads.add(1, [0.0, 0.0])
    loads.add(2, [math.nan, 1.0])
    loads.add(3, [1.0, 1.0, 1.0])
    # The third has another number of experts; the largest number is that of the layer.
    assert [span.shares for span in loads.spans()] == [(1 / 3, 1 / 3, 1 / 3)]
    assert LoadHistory().spans() == ()


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 9)), min_size=1, max_size=60))
def test_no_assignment_is_lost(counts: list[tuple[int, int]]):
    loads = LoadHistory(most=8)
    for step, count in sorted(counts):
        loads.add(step, [float(count), 1.0])
    assert len(loads.sums) <= 8
    total = sum(float(row.sum()) for row in loads.sums.values())
    assert total == sum(count for _, count in counts) + len(counts)
