"""Kills at any moment and at each step of a save, full disks: one interval is lost at most."""

import errno
import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.format import Checkpoint
from turnout.checkpoint.read import load
from turnout.config.train import RunConfig
from turnout.train.hooks.metrics import MetricsWriter
from turnout.train.report import StepReport
from turnout.train.session import open_session
from turnout.train.trainer import Trainer

INTERVAL = 3
CLOCKS = ("tokens_per_second", "seconds")


class Killed(BaseException):
    """What a kill is to a process that lives on to be looked at."""


def train(config: RunConfig, folder: Path) -> None:
    """Begin, or go on from the newest checkpoint, to the end."""
    steps = folders.saved_steps(folder)
    session = open_session(config, steps[-1][1] if steps else None)
    hooks = [MetricsWriter(folder / "metrics.jsonl")]
    Trainer(session.config, session.state, session.data, session.objective, hooks, folder).run()


def records(folder: Path) -> list[dict[str, Any]]:
    """The run's metrics without clocks; a half-written last line is no record."""
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found.append({name: value for name, value in record.items() if name not in CLOCKS})
    return found


def assert_equal(one: Checkpoint, two: Checkpoint) -> None:
    assert one.meta == two.meta
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


def assert_little_was_lost(folder: Path) -> None:
    """Every checkpoint loads, and the newest is at most one interval behind the last step."""
    saved = folders.saved_steps(folder)
    for _, each in saved:
        load(each)
    metrics = folder / "metrics.jsonl"
    done = [r["step"] for r in records(folder) if r["kind"] == "step"] if metrics.exists() else []
    if done:
        assert saved, "steps were taken, but not even the first state was saved"
        assert max(done) - saved[-1][0] <= INTERVAL


@pytest.fixture
def config(tiny_run: RunConfig) -> RunConfig:
    train = replace(tiny_run.train, steps=12, save_every=INTERVAL, eval_every=6, average=0.9)
    return replace(tiny_run, train=train)


@pytest.fixture
def whole(config: RunConfig, tmp_path: Path) -> Path:
    """The run that nothing disturbed."""
    train(config, tmp_path / "whole")
    return tmp_path / "whole"


def assert_resumes_exactly(config: RunConfig, cut: Path, whole: Path) -> None:
    assert_little_was_lost(cut)
    train(config, cut)
    assert_equal(load(folders.latest(cut)), load(folders.latest(whole)))
    assert records(cut) == records(whole)
    assert [step for step, _ in folders.saved_steps(cut)] == [
        step for step, _ in folders.saved_steps(whole)
    ]


FAULTS = (
    "before the file",
    "half a file",
    "before fsync",
    "before the rename",
    "after the rename",
    "before pruning",
    "while pruning",
    "before the record",
)


def fault(kind: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises ``Killed`` at the moment ``kind`` of the save that follows ``at`` earlier ones."""
    from turnout.checkpoint import durable, write

    count = [0]

    def nth(original: Callable[..., Any], act: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*arguments: Any) -> Any:
            count[0] += 1
            return (act if count[0] == at + 1 else original)(*arguments)

        return patched

    def kill(*arguments: Any) -> None:
        raise Killed

    def half(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise Killed

    def renamed(one: Path, two: Path) -> None:
        one.replace(two)
        raise Killed

    def unindexed(folder: Path) -> None:
        (folder / "index.json").unlink()
        raise Killed

    shard = "turnout.checkpoint.write._write_shard"
    index = "turnout.checkpoint.write.replace_file"
    if kind == "before the file":
        monkeypatch.setattr(shard, nth(write._write_shard, kill))
    elif kind == "half a file":
        monkeypatch.setattr(
            shard, nth(write._write_shard, lambda path, pieces: half(path, b"x" * 999))
        )
    elif kind == "before fsync":
        monkeypatch.setattr("turnout.checkpoint.write.sync_folder", _after_shard(at))
    elif kind == "before the rename":
        monkeypatch.setattr(
            index, nth(write.replace_file, lambda path, data: half(Path(f"{path}.tmp"), data))
        )
    elif kind == "after the rename":

        def written(path: Path, data: bytes) -> None:
            durable.write_file(Path(f"{path}.tmp"), data)
            renamed(Path(f"{path}.tmp"), path)

        monkeypatch.setattr(index, nth(write.replace_file, written))
    elif kind == "before pruning":
        monkeypatch.setattr(folders, "prune", nth(folders.prune, kill))
    elif kind == "while pruning":
        monkeypatch.setattr(folders, "remove", nth(folders.remove, unindexed))
    else:
        monkeypatch.setattr(MetricsWriter, "on_save", nth(MetricsWriter.on_save, kill))


def _after_shard(at: int) -> Callable[[Path], None]:
    from turnout.checkpoint import write

    count, original = [0], write.sync_folder

    def patched(folder: Path) -> None:
        if folder.name.startswith("step-") and not (folder / "index.json").exists():
            count[0] += 1
            if count[0] == at + 1:
                raise Killed
        original(folder)

    return patched


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_kill_within_a_save_loses_an_interval_at_most(
    config: RunConfig, whole: Path, tmp_path: Path, kind: str, at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(kind, at, patch)
        with pytest.raises(Killed):
            train(config, tmp_path / "cut")
    assert_resumes_exactly(config, tmp_path / "cut", whole)


def full_after(room: int) -> Callable[[BinaryIO, bytes | memoryview], None]:
    """Writes to files until ``room`` bytes are used up, and half of what does not fit."""
    from turnout.checkpoint import durable

    left, original = [room], durable.append

    def limited(file: BinaryIO, data: bytes | memoryview) -> None:
        left[0] -= len(data)
        if left[0] < 0:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        original(file, data)

    return limited


@pytest.mark.parametrize("share", [0.0, 0.999, 1.5, 2.99])
def test_a_full_disk_loses_an_interval_at_most(
    config: RunConfig, whole: Path, tmp_path: Path, share: float
) -> None:
    """Full at the first save, at its index, and in and at the end of a later one."""
    saved = folders.latest(whole)
    size = sum(path.stat().st_size for path in saved.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("turnout.checkpoint.durable.append", full_after(int(share * size)))
        with pytest.raises(OSError, match="No space left") as stop:
            train(config, tmp_path / "cut")
    assert stop.value.filename
    assert_resumes_exactly(config, tmp_path / "cut", whole)


def test_a_disk_that_fills_within_the_metrics_loses_an_interval_at_most(
    config: RunConfig, whole: Path, tmp_path: Path
) -> None:
    count = [0]

    def half(writer: MetricsWriter, report: StepReport) -> None:
        count[0] += 1
        if count[0] < 8:
            original(writer, report)
            return
        assert writer._file is not None
        writer._file.write('{"kind": "step", "st')
        writer._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    original = MetricsWriter.on_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsWriter, "on_step", half)
        with pytest.raises(OSError, match="No space left"):
            train(config, tmp_path / "cut")
    assert_resumes_exactly(config, tmp_path / "cut", whole)


def start(config: RunConfig, folder: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["turnout.train.trainer", "turnout.train.session"])
    process = context.Process(target=train, args=(config, folder))
    process.start()
    return process


@pytest.mark.slow
def test_kills_at_random_moments(config: RunConfig, whole: Path, tmp_path: Path) -> None:
    lasted = [undisturbed(config, tmp_path / f"timed{number}") for number in range(2)][-1]
    moments, kills = random.Random(0), 0
    for number in range(60):
        folder, began = tmp_path / f"cut{number}", time.monotonic()
        process = start(config, folder)
        process.join(lasted * moments.uniform(0.0, 1.0))
        if process.exitcode is not None:  # the machine is faster now than it was
            lasted = time.monotonic() - began
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert_resumes_exactly(config, folder, whole)
        shutil.rmtree(folder)
        if kills == 20:
            return
    pytest.fail(f"only {kills} of 60 kills came before the end of their run")


def undisturbed(config: RunConfig, folder: Path) -> float:
    """Seconds that a run takes; the first one waits for the server, too."""
    began = time.monotonic()
    process = start(config, folder)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began
