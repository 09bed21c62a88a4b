"""Saving while the training goes on: the same checkpoints, told when they are complete."""

import errno
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from turnout.checkpoint import durable, folders, saver
from turnout.checkpoint.format import INDEX
from turnout.checkpoint.read import load
from turnout.config.train import RunConfig
from turnout.train.hooks.metrics import MetricsWriter
from turnout.train.report import StepReport
from turnout.train.session import open_session
from turnout.train.trainer import Trainer


@pytest.fixture
def background(tiny_run: RunConfig) -> RunConfig:
    return replace(tiny_run, train=replace(tiny_run.train, save_in_background=True))


def trainer(config: RunConfig, folder: Path) -> Trainer:
    return Trainer.of(open_session(config), folder)


def test_the_checkpoints_are_those_of_a_run_that_waits(
    tiny_run: RunConfig, background: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although every save but the last is held back until the next step has changed the weights,
    and each is told of when it is there."""
    trainer(tiny_run, tmp_path / "one").run()
    stepped, original = threading.Event(), saver.write_shard

    def late(*arguments: Any) -> Any:
        assert stepped.wait(60)
        return original(*arguments)

    step, told = MetricsWriter.on_step, MetricsWriter.on_save

    def on_step(writer: MetricsWriter, report: StepReport) -> None:
        stepped.set()
        step(writer, report)

    def on_save(writer: MetricsWriter, number: int, folder: Path) -> None:
        assert (folder / INDEX).exists()
        stepped.clear()
        if number == 3:
            stepped.set()  # no step comes after the next save
        told(writer, number, folder)

    monkeypatch.setattr(saver, "write_shard", late)
    monkeypatch.setattr(MetricsWriter, "on_step", on_step)
    monkeypatch.setattr(MetricsWriter, "on_save", on_save)
    trainer(background, tmp_path / "two").run()
    steps = [folders.saved_steps(tmp_path / name) for name in ("one", "two")]
    assert [number for number, _ in steps[0]] == [number for number, _ in steps[1]] == [3, 6]
    for (_, one), (_, two) in zip(*steps, strict=True):
        found, expected = load(two), load(one)
        assert found.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(found.tensors[n], t) for n, t in expected.tensors.items())
        assert found.meta["control"] == expected.meta["control"]


def test_a_full_disk_stops_the_run_at_a_later_step(background: RunConfig, tmp_path: Path) -> None:
    """The checkpoint of the start is there, that of step 3 is not, and the run goes on from it."""
    original, saved = durable.append, folders.step_folder(tmp_path, 3)

    def full(file: Any, data: Any) -> None:
        if saved.name in str(file.name):
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        original(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "append", full)
        with pytest.raises(OSError, match="No space left on device"):
            trainer(background, tmp_path).run()
    assert [step for step, _ in folders.saved_steps(tmp_path)] == [0]
    session = open_session(background, tmp_path)
    Trainer.of(session, tmp_path).run()
    assert [step for step, _ in folders.saved_steps(tmp_path)][-1] == 6
