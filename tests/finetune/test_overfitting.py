"""Overfitting, by hand from curves."""

import pytest

from turnout.finetune.overfitting import overfitting
from turnout.probe.curve import Curve, Point


def curve(training: list[float], validation: dict[int, float]) -> Curve:
    points = tuple(Point(step, bits) for step, bits in enumerate(training, 1))
    return Curve(points, tuple(Point(step, bits) for step, bits in validation.items()))


def test_held_out_text_that_rises_while_training_text_falls() -> None:
    falling = [4.0 - step / 10 for step in range(30)]
    found = overfitting(curve(falling, {10: 3.0, 20: 2.5, 30: 2.8}), steps=30)
    assert found is not None
    assert found.found
    assert (found.best.step, found.last.step, found.patience) == (20, 30, False)
    # The nine batches up to step 20 are 2.9, 2.8, .., 2.1: their mean is 2.5; up to 30 it is 1.5.
    assert found.training_best == pytest.approx(2.5)
    assert found.training_last == pytest.approx(1.5)
    assert found.line.startswith("overfitting: YES; best after step 20: 2.5000, at the end")


def test_noise_is_not_called_so() -> None:
    falling = [4.0 - step / 10 for step in range(30)]
    # 2.51 is within a hundredth of 2.5.
    found = overfitting(curve(falling, {20: 2.5, 30: 2.51}), steps=40)
    assert found is not None
    assert not found.found
    assert found.line.endswith("; ended by train.patience")


def test_both_rising_is_another_trouble() -> None:
    rising = [1.0 + step / 10 for step in range(30)]
    found = overfitting(curve(rising, {10: 1.0, 30: 3.0}), steps=30)
    assert found is not None
    assert not found.found


def test_the_last_may_be_the_best() -> None:
    found = overfitting(curve([2.0, 1.0], {1: 2.0, 2: 1.0}), steps=2)
    assert found is not None
    assert "none seen; the last evaluation is the best" in found.line


def test_without_evaluations_or_steps_nothing_is_said() -> None:
    assert overfitting(curve([1.0], {}), steps=1) is None
    assert overfitting(curve([], {1: 1.0}), steps=1) is None
