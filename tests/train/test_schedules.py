"""Schedules against numbers worked by hand."""

import pytest

from turnout.config.schedules import Constant, Cosine, InverseSqrt, WarmupStableDecay
from turnout.train.schedules import factor


def test_inverse_sqrt_is_flat_then_decays() -> None:
    # T5: 1 / sqrt(max(step, 10000)): .01 up to step 10000, then 1 / sqrt(40000) = .005.
    schedule = InverseSqrt(warmup=10_000)
    assert factor(schedule, 0, 1) == pytest.approx(0.01)
    assert factor(schedule, 10_000, 1) == pytest.approx(0.01)
    assert factor(schedule, 40_000, 1) == pytest.approx(0.005)


def test_inverse_sqrt_with_linear_warmup_and_peak_one() -> None:
    # warmup 4: (step + 1) / 4 while below 1, times sqrt(4) / sqrt(max(step, 4)).
    schedule = InverseSqrt(warmup=4, linear_warmup=True, peak_one=True)
    assert [factor(schedule, step, 99) for step in (0, 1, 3, 4, 16)] == pytest.approx(
        [0.25, 0.5, 1.0, 1.0, 0.5]  # the last: sqrt(4) / sqrt(16)
    )


def test_cosine_rises_then_falls_to_its_floor() -> None:
    # 2 steps up, then (12 - 2) = 10 steps down: half-way (step 7) 0.1 + 0.9 * 0.5 = 0.55;
    # a quarter down: cos(pi * 0.25) = .70711, 0.1 + 0.45 * 1.70711 = .86820 at step 4.5.
    schedule = Cosine(warmup=2, floor=0.1)
    assert [factor(schedule, step, 12) for step in (0, 1, 2, 7, 12)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.55, 0.1]
    )
    assert factor(Cosine(warmup=0, floor=0.0), 1, 4) == pytest.approx(0.853553)  # .5 (1 + .70711)
    assert factor(schedule, 50, 12) == pytest.approx(0.1)


def test_cosine_shorter_than_its_warmup_stays_finite() -> None:
    assert factor(Cosine(warmup=100), 3, 4) == pytest.approx(0.04)
    assert factor(Cosine(warmup=4), 4, 4) == pytest.approx(1.0)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(TypeError, match="no schedule for int"):
        factor(3, 0, 1)


def test_warmup_stable_decay_rises_stays_and_falls() -> None:
    # 20 steps, 2 up, the last quarter = 5 down to 0.2: at step 15 all 5 are left, factor 1; at 16
    # 4 of 5: 0.2 + 0.8 * 0.8 = 0.84; at 19 1 of 5: 0.2 + 0.8 * 0.2 = 0.36; at 20 the floor.
    schedule = WarmupStableDecay(warmup=2, decay=0.25, floor=0.2)
    assert [factor(schedule, step, 20) for step in (0, 1, 2, 15, 16, 19, 20, 25)] == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 0.84, 0.36, 0.2, 0.2]
    )


def test_the_square_root_decay_falls_faster_at_first() -> None:
    # 4 steps of decay: after 1 of 4, 1 - sqrt(1/4) = 0.5; after 4, 0.
    schedule = WarmupStableDecay(warmup=0, decay=0.4, shape="sqrt")
    assert [factor(schedule, step, 10) for step in (6, 7, 10)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_longer_run_changes_nothing_before_the_decay() -> None:
    schedule = WarmupStableDecay(warmup=3, decay=0.1)
    short, long = ([factor(schedule, step, steps) for step in range(90)] for steps in (100, 1000))
    assert short == long


def test_no_decay_is_a_constant_with_warmup() -> None:
    flat = [factor(WarmupStableDecay(warmup=4, decay=0.0), step, 9) for step in range(9)]
    assert flat == [factor(Constant(warmup=4), step, 9) for step in range(9)]
    assert flat == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert factor(Constant(), 0, 9) == 1.0
