"""A router that collapses raises its alarm, and may be answered; a healthy run raises none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.guards import AlarmConfig
from turnout.config.train import RunConfig
from turnout.train.session import Session, open_session
from turnout.train.trainer import Trainer


def events(run: Path) -> list[dict[str, object]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "event"]


def collapsed(config: RunConfig) -> Session:
    """A frozen router that sends all tokens to expert 2 of its first sparse layer."""
    session = open_session(config)
    layer = next(iter(session.state.model.sparse_layers().values()))

    def force(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
        x, *rest = inputs
        return (torch.ones_like(x), *rest)

    layer.router.register_forward_pre_hook(force)
    with torch.no_grad():
        weight = next(layer.router.parameters())
        weight.zero_()
        weight[2] = 0.3  # a logit of 32 x 0.3, no reason for an alarm of its own
    return session


def steps(config: RunConfig, number: int, **alarms: object) -> RunConfig:
    train = replace(config.train, steps=number, save_every=20, eval_every=1000)
    return replace(config, train=train, alarms=AlarmConfig(**alarms))  # type: ignore[arg-type]


def test_a_collapse_raises_its_alarm_within_fifty_steps(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    session = collapsed(steps(tiny_run, 24))
    name = next(iter(session.state.model.sparse_layers()))
    Trainer.of(session, tmp_path).run()
    alarms = [event for event in events(tmp_path) if event["name"] == "alarm"]
    assert alarms[0]["step"] == AlarmConfig.patience <= 50
    assert alarms[0]["layer"] == name
    assert str(alarms[0]["text"]).startswith("collapse: the router sends nearly all to 1.00 of 4")
    assert "(expert 2 gets 100%" in str(alarms[0]["text"])
    assert not any(event["name"] == "action" for event in events(tmp_path))


def test_alarms_act_where_they_may_and_the_change_survives_resuming(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    config = steps(tiny_run, 24, act=True, patience=5, repeat=10)
    session = collapsed(config)
    Trainer.of(session, tmp_path).run(20)
    actions = [event["text"] for event in events(tmp_path) if event["name"] == "action"]
    assert actions == [
        "losses.balance 0.01 -> 0.02, because of collapse",
        "losses.balance 0.02 -> 0.04, because of collapse",
    ]
    assert session.state.control.coefficients == {"balance": 0.04}
    resumed = open_session(config, folders.latest(tmp_path))
    assert resumed.state.control == session.state.control


def test_alarms_come_at_the_same_step_after_resuming(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = steps(tiny_run, 24)
    Trainer.of(collapsed(config), tmp_path / "whole").run()
    Trainer.of(collapsed(config), tmp_path / "cut").run(10)
    resumed = open_session(config, folders.latest(tmp_path / "cut"))
    again = collapsed(config)
    layer, forced = (next(iter(s.state.model.sparse_layers().values())) for s in (resumed, again))
    hooks = layer.router._forward_pre_hooks
    hooks.update(forced.router._forward_pre_hooks)
    Trainer.of(resumed, tmp_path / "cut").run()
    assert events(tmp_path / "cut") == events(tmp_path / "whole") != []
    one, two = (load(folders.latest(tmp_path / name)) for name in ("whole", "cut"))
    assert one.meta["control"]["watches"] == two.meta["control"]["watches"]


@pytest.mark.slow
def test_a_healthy_run_raises_none(tiny_run: RunConfig, tmp_path: Path) -> None:
    Trainer.of(open_session(steps(tiny_run, 500)), tmp_path).run()
    assert events(tmp_path) == []
