"""TensorBoard's files, read back."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from turnout.config.train import RunConfig
from turnout.train.hooks.tensorboard import TensorBoard
from turnout.train.session import open_session
from turnout.train.trainer import Trainer


def test_tensorboard_holds_what_the_run_reports(tiny_run: RunConfig, tmp_path: Path) -> None:
    evaluation = Trainer.of(open_session(tiny_run), None, [TensorBoard(tmp_path)]).run()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    tags = found.Tags()["scalars"]
    assert [point.step for point in found.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert found.Scalars("validation/loss")[-1].value == pytest.approx(evaluation.loss, rel=1e-6)
    assert "terms/balance" in tags
    assert any(tag.startswith("dropped/") for tag in tags)
