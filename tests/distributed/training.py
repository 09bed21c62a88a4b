"""Runs of the trainer inside of ranks: jobs for the pool."""

import os
import signal
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any, final

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from tests.distributed.cases import meshes
from turnout.checkpoint import folders, saver
from turnout.checkpoint.ranks import OverStore
from turnout.checkpoint.read import load
from turnout.config.layout import over_ranks
from turnout.config.train import RunConfig
from turnout.parallel.ranks import ManyRanks
from turnout.train.header import run_header
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.ranks import Alone, Ranks
from turnout.train.report import Evaluation, Event, StepReport
from turnout.train.saving import save_state
from turnout.train.session import Session, open_session
from turnout.train.stopping import Interrupted
from turnout.train.trainer import Trainer


def opened(config: RunConfig, tag: str, checkpoint: Path | None = None) -> Session:
    """A session of all ranks; ``tag`` is new for each."""

    def connect() -> Ranks:
        if dist.get_world_size() == 1:
            return Alone()
        plan = over_ranks(config, dist.get_world_size())
        group = 1 if config.model.moe is None else config.model.moe.group.rows
        store = PrefixStore(tag, _get_default_store())
        said = OverStore(store, dist.get_rank(), dist.get_world_size())
        return ManyRanks(meshes(plan), group, said)

    return open_session(config, checkpoint, None, connect)


def train(config: RunConfig, folder: Path, tag: str, until: int | None = None) -> dict[str, Any]:
    """Job: train a new run; what this rank saw of it."""
    watch = Watch()
    evaluation = Trainer.of(opened(config, tag), folder, [watch]).run(until)
    return {"losses": watch.losses, "norms": watch.norms, "loss": evaluation.loss}


def assert_same(config: RunConfig, folder: Path, found: list[Any], many: Path) -> None:
    """That what ranks ``found``, and left in ``many``, is what one process does in ``folder``."""
    session = open_session(config)
    begin = {f"model.{n}": p.detach().clone() for n, p in session.state.weights.items()}
    alone = Trainer.of(session, folder).run()
    assert found == [found[0]] * len(found)
    assert found[0]["loss"] == pytest.approx(alone.loss, rel=1e-5)
    ours, theirs = load(folders.latest(folder)), load(folders.latest(many))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        first = begin.get(name.replace("average.", "model."))
        if first is not None:
            largest = float((tensor - first).abs().max())
            apart = float((tensor - theirs.tensors[name]).abs().max())
            last = float(tensor.abs().max()) * 2**-22  # two units of the last place
            assert apart <= 1e-3 * largest + last, f"{name}: {apart:.1e} of {largest:.1e}"
    for key in ("step", "tokens", "sums", "optimizer"):
        assert ours.meta[key] == theirs.meta[key], key
    assert ours.meta["control"]["batch"] == theirs.meta["control"]["batch"]


def go_on(config: RunConfig, checkpoint: Path, tag: str) -> dict[str, Any]:
    """Job: one more step of a saved run; its loss."""
    watch = Watch()
    session = opened(config, tag, checkpoint)
    Trainer.of(session, None, [watch]).run(session.state.step + 1)
    return {"losses": watch.losses}


def header(config: RunConfig, tag: str) -> str:
    """Job: what a run says before its first step."""
    return "\n".join(run_header(opened(config, tag)))


def saved_again(config: RunConfig, checkpoint: Path, to: Path, tag: str) -> str:
    """Job: load a checkpoint and save what came of it."""
    session = opened(config, tag, checkpoint)
    return str(save_state(to, session.state, session.config, session.data))


def trouble(config: RunConfig, folder: Path, tag: str, kind: str, rank: int) -> dict[str, Any]:
    """Job: train while something befalls one rank after two steps; how this rank fared."""
    session = opened(config, tag)
    watch = Watch(kind if dist.get_rank() == rank else "", session)
    intact = saver.write_shard
    try:
        Trainer.of(session, folder, [watch]).run()
        ended = "end"
    except (Interrupted, Exception) as error:
        ended = f"{type(error).__name__}: {error}"
    finally:
        saver.write_shard = intact
    return {"ended": ended, "step": session.state.step, "events": watch.events}


def _full(*args: Any) -> Any:
    raise OSError(ENOSPC, "No space left on device")


class _Unreadable:
    """Rows whose disk fails."""

    def labels(self, number: Any) -> Any:
        raise OSError(EIO, "Input/output error")


@final
class Watch(Hook):
    """Notes what passes by, and does harm after the second step where it is told to."""

    def __init__(self, kind: str = "", session: Session | None = None) -> None:
        self.kind = kind
        self.session = session
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.events: list[str] = []

    def on_start(self, start: Start) -> None:
        """Nothing yet."""

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        self.norms.append(report.gradient_norm)
        if report.step != 2 or self.session is None:
            return
        kind, self.kind = self.kind, ""
        if kind == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if kind == "nan":
            with torch.no_grad():
                for weight in self.session.state.weights.values():
                    weight.fill_(torch.nan)
        if kind == "data":
            object.__setattr__(self.session.data, "train_rows", _Unreadable())
        if kind == "disk":
            saver.write_shard = _full

    def on_evaluate(self, evaluation: Evaluation) -> None:
        """Evaluations are returned."""

    def on_save(self, step: int, folder: Path) -> None:
        """Files tell."""

    def on_event(self, event: Event) -> None:
        self.events.append(f"{event.name}: {event.text}")

    def on_end(self, end: End) -> None:
        """Nothing is left open."""
