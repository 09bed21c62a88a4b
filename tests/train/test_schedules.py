"""Schedules against numbers worked by hand."""

import pytest

from turnout.config.train import Cosine, InverseSqrt
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
