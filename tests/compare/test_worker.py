"""Runs that are really trained, in this process and in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.compare.conduct import conduct
from turnout.compare.process import ERRORS, LOG, RUN_FILE, launch_process
from turnout.compare.runner import RUNS
from turnout.compare.track import Outcome, read_outcome, read_track, write_outcome
from turnout.compare.worker import peak_memory, train
from turnout.config import io
from turnout.config.compare import CompareConfig, resolved
from turnout.config.errors import UserError
from turnout.train.step import optimiser_step


def here(folder, lock, tell):
    """A run trained in this process."""
    write_outcome(folder, train(folder, tell))


def prepared(folder: Path, config) -> Path:
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text(io.dump_toml(config))
    return folder


def steps(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["kind"] == "step"]


def test_a_small_comparison_with_an_interruption(tmp_path, real, monkeypatch):
    """Two rates and two seeds; the second run is stopped in its middle, and then gone on with."""
    given = resolved(real, CompareConfig(learning_rates=(1e-3, 1e-2), seeds=2))
    whole = conduct(given, tmp_path / "whole", print, "x", here)

    def interrupted(state, *rest):
        if state.step == 3:
            raise KeyboardInterrupt
        return optimiser_step(state, *rest)

    def second_stops(folder, lock, tell):
        if folder.name == "experts-4-lr0.001-seed0":
            monkeypatch.setattr("turnout.train.trainer.optimiser_step", interrupted)
        here(folder, lock, tell)

    with pytest.raises(KeyboardInterrupt):
        conduct(given, tmp_path / "cut", print, "x", second_stops)
    monkeypatch.undo()
    runs = tmp_path / "cut" / RUNS
    first = (runs / "dense-lr0.001-seed0" / "metrics.jsonl").read_bytes()
    assert sorted(path.name for path in runs.iterdir()) == [
        "dense-lr0.001-seed0",
        "experts-4-lr0.001-seed0",
    ]
    again = conduct(given, tmp_path / "cut", print, "x", here)
    assert (runs / "dense-lr0.001-seed0" / "metrics.jsonl").read_bytes() == first
    resumed = read_outcome(runs / "experts-4-lr0.001-seed0")
    assert resumed is not None and (resumed.first_step, resumed.step) == (3, 4)
    assert steps(runs / "experts-4-lr0.001-seed0") == [1, 2, 3, 4]
    for one, other in zip(whole.comparison.arms, again.comparison.arms, strict=True):
        assert one.rate == other.rate and one.trial == other.trial
        assert [s.final_loss for s in one.seeds] == [s.final_loss for s in other.seeds]
    assert whole.comparison.pairs[0].ratios[0] == again.comparison.pairs[0].ratios[0]
    assert len(list(runs.iterdir())) == 8


def test_both_arms_of_a_seed_read_the_same_batches(tmp_path, real):
    given = resolved(real, CompareConfig(learning_rates=(1e-3,), seeds=2))
    seen = {}

    def spying(folder, lock, tell):
        from turnout.data import pipeline

        data = pipeline.build(io.load_toml(folder / RUN_FILE))
        seen[folder.name] = torch.cat([data.micro_batches(step)[0].targets for step in range(4)])
        here(folder, lock, tell)

    done = conduct(given, tmp_path, print, "x", spying)
    for seed in (1, 2):
        dense, sparse = (seen[f"{arm}-lr0.001-seed{seed}"] for arm in ("dense", "experts-4"))
        assert torch.equal(dense, sparse)
    assert not torch.equal(seen["dense-lr0.001-seed1"], seen["dense-lr0.001-seed2"])
    assert {run.track.targets for run in done.comparison.finished} == {
        done.comparison.finished[0].track.targets
    }
    # Nothing is dropped in evaluation.
    metrics = tmp_path / RUNS / "experts-4-lr0.001-seed1" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert {r["dropped"] for r in records if r["kind"] == "evaluation"} == {0.0}


def test_a_run_whose_numbers_burst_has_an_outcome(tmp_path, real, monkeypatch):
    folder = prepared(tmp_path / "run", replace(real, train=replace(real.train, steps=20)))

    monkeypatch.setattr("turnout.train.step.fault", lambda *parts: "the loss is nan")
    outcome = train(folder, lambda told: None)
    assert "10 steps in a row were skipped" in outcome.failed
    assert outcome.step == 10


def test_a_run_that_the_trainer_ends_early_is_not_over(tmp_path, real, monkeypatch):
    folder = prepared(tmp_path / "run", real)
    monkeypatch.setattr("turnout.train.trainer.Trainer.run", lambda self: None)
    with pytest.raises(KeyboardInterrupt):
        train(folder, lambda told: None)


def test_another_error_of_a_run_is_no_outcome(tmp_path, real, monkeypatch):
    folder = prepared(tmp_path / "run", real)

    def full(state, *rest):
        raise UserError("the disk is full")

    monkeypatch.setattr("turnout.train.trainer.optimiser_step", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(folder, lambda told: None)
    assert read_outcome(folder) is None


def test_the_peak_of_memory_is_this_programs_own():
    code = "from turnout.compare.worker import peak_memory; print(peak_memory())"
    ballast = bytearray(os.urandom(1)) * 500_000_000  # a parent far larger than its child
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    own = peak_memory()
    assert own is not None and own > len(ballast)
    assert 10_000_000 < int(child.stdout) < len(ballast)


def test_a_process_trains_reports_and_ends(tmp_path, real):
    folder, told = prepared(tmp_path / "run", real), []
    with (tmp_path / "lock").open("a") as lock:
        launch_process(folder, lock.fileno(), told.append)
    outcome = read_outcome(folder)
    assert isinstance(outcome, Outcome) and outcome.step == 4 and outcome.failed == ""
    assert outcome.peak_memory is None or outcome.peak_memory > 50_000_000
    assert outcome.threads == 1 and outcome.dtype == "float32"
    losses = read_track(folder).losses
    assert [t.loss for t in told if t.loss is not None] == pytest.approx(list(losses))
    assert "language 1" in (folder / LOG).read_text()
    assert not (folder / ERRORS).exists()
    assert folders.saved_steps(folder)[-1][0] == 4
    # What a process trained is what this one trains.
    twin = prepared(tmp_path / "twin", real)
    train(twin, lambda told: None)
    one, other = (load(folders.step_folder(run, 4)).tensors for run in (folder, twin))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_process_that_cannot_train_is_one_line(tmp_path, real):
    config = replace(real, data=replace(real.data, paths=(str(tmp_path / "nowhere"),)))
    folder = prepared(tmp_path / "run", config)
    with (tmp_path / "lock").open("a") as lock, pytest.raises(UserError) as error:
        launch_process(folder, lock.fileno(), print)
    assert str(error.value).startswith("run run: ") and "no such file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "was ended by signal 9; perhaps memory ran out; see {}/errors.txt, and"),
        (signal.SIGINT, "was stopped;"),
    ],
)
def test_a_process_ended_from_outside_is_one_line(tmp_path, real, monkeypatch, number, message):
    folder = prepared(tmp_path / "run", replace(real, train=replace(real.train, steps=100_000)))
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    def end(told):
        if told.step:
            started[0].send_signal(number)

    monkeypatch.setattr("turnout.compare.process.subprocess.Popen", Watched)
    with (tmp_path / "lock").open("a") as lock, pytest.raises(UserError) as error:
        launch_process(folder, lock.fileno(), end)
    expected = f"run run: {message.format(folder)} type the command again to go on"
    assert str(error.value) == expected
    assert read_outcome(folder) is None


def test_an_interruption_stops_the_process_first(tmp_path, real):
    folder = prepared(tmp_path / "run", replace(real, train=replace(real.train, steps=100_000)))

    def stop(told):
        if told.step:
            raise KeyboardInterrupt

    before = threading.active_count()
    with (tmp_path / "lock").open("a") as lock, pytest.raises(KeyboardInterrupt):
        launch_process(folder, lock.fileno(), stop)
    size = (folder / "metrics.jsonl").stat().st_size
    assert threading.active_count() == before
    assert read_outcome(folder) is None and size > 0
    assert "Traceback" not in (folder / ERRORS).read_text()


def test_runs_at_once_share_the_processors(tmp_path, real, monkeypatch):
    monkeypatch.setattr("turnout.compare.worker.os.cpu_count", lambda: 7)
    before = torch.get_num_threads()
    folder = prepared(tmp_path / "run", replace(real, train=replace(real.train, threads=0)))
    try:
        outcome = train(folder, lambda told: None, at_once=3)
    finally:
        torch.set_num_threads(before)
    assert (outcome.threads, outcome.at_once) == (2, 3)
