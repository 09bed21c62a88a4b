"""SIGINT and SIGTERM: the step is ended, the state saved, and the run goes on exactly."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.train import RunConfig
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation, Event, StepReport
from turnout.train.session import Session, open_session
from turnout.train.stopping import Interrupted, stop_requests
from turnout.train.trainer import Trainer


class SignalAt(Hook):
    """Sends this process a signal when a step is reported."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number
        self.ends: list[End] = []
        self.events: list[Event] = []

    def on_start(self, start: Start) -> None:
        """Not watched."""

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            os.kill(os.getpid(), self.number)

    def on_evaluate(self, evaluation: Evaluation) -> None:
        """Not watched."""

    def on_save(self, step: int, folder: Path) -> None:
        """Not watched."""

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_end(self, end: End) -> None:
        self.ends.append(end)


def trainer(session: Session, folder: Path, *hooks: Hook) -> Trainer:
    return Trainer(session.config, session.state, session.data, session.objective, hooks, folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    tiny_run: RunConfig, tmp_path: Path, number: signal.Signals
) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, average=0.9))
    trainer(open_session(config), tmp_path / "whole").run()
    hook = SignalAt(4, number)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 4") as stop:
        trainer(open_session(config), tmp_path / "cut", hook).run()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert stop.value.checkpoint == folders.latest(tmp_path / "cut")
    assert stop.value.checkpoint.name == "step-00000004"
    assert hook.ends == [End(4, False, stop.value.checkpoint)]
    assert [event.name for event in hook.events] == ["interrupt"]
    trainer(open_session(config, stop.value.checkpoint), tmp_path / "cut").run()
    one, two = (load(folders.latest(tmp_path / name)) for name in ("whole", "cut"))
    assert one.meta == two.meta
    assert any(name.startswith("average.") for name in one.tensors)
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


@pytest.mark.usefixtures("usual_interrupt")
def test_a_second_signal_acts_as_usual() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_takes_no_signals() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def other() -> None:
        with stop_requests() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.signal))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
