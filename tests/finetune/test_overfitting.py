"""Overfitting, by hand from curves."""

import pytest

from turnout.config.train import TrainConfig
from turnout.finetune.overfitting import overfitting
from turnout.probe.curve import Curve, Point


def curve(training: list[float], validation: dict[int, float]) -> Curve:
    points = tuple(Point(step, bits) for step, bits in enumerate(training, 1))
    return Curve(points, tuple(Point(step, bits) for step, bits in validation.items()))


def test_held_out_text_that_rises_while_training_text_falls() -> None:
    falling = [4.0 - step / 10 for step in range(30)]
    found = overfitting(curve(falling, {10: 3.0, 20: 2.5, 30: 2.8}), TrainConfig(steps=30))
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
    held_out = curve(falling, {20: 2.5, 30: 2.51})
    found = overfitting(held_out, TrainConfig(steps=40, eval_every=10))
    assert found is not None
    assert not found.found
    assert not found.patience  # it was interrupted


def test_patience_is_that_of_the_loop() -> None:
    held_out = curve([2.0] * 30, {20: 2.5, 30: 2.51})
    patient = TrainConfig(steps=40, eval_every=10, patience=1)
    found = overfitting(held_out, patient)
    assert found is not None
    assert found.line.endswith("; ended by train.patience")
    longer = overfitting(held_out, TrainConfig(steps=40, eval_every=10, patience=2))
    assert longer is not None
    assert not longer.patience
    whole = overfitting(held_out, TrainConfig(steps=30, eval_every=10, patience=1))
    assert whole is not None
    assert not whole.patience


def test_both_rising_is_another_trouble() -> None:
    rising = [1.0 + step / 10 for step in range(30)]
    found = overfitting(curve(rising, {10: 1.0, 30: 3.0}), TrainConfig(steps=30))
    assert found is not None
    assert not found.found


def test_the_last_may_be_the_best() -> None:
    found = overfitting(curve([2.0, 1.0], {1: 2.0, 2: 1.0}), TrainConfig(steps=2))
    assert found is not None
    assert "none seen; the last evaluation is the best" in found.line


def test_without_evaluations_or_steps_nothing_is_said() -> None:
    assert overfitting(curve([1.0], {}), TrainConfig(steps=1)) is None
    assert overfitting(curve([], {1: 1.0}), TrainConfig(steps=1)) is None
