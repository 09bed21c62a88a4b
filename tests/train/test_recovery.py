"""Planted NaN: skipped, rolled back, stopped; named by term and layer."""

import json
from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load, load_meta
from turnout.config.errors import UserError
from turnout.config.guards import GuardConfig
from turnout.config.train import RunConfig
from turnout.train.hooks.metrics import MetricsWriter
from turnout.train.session import Session, open_session
from turnout.train.trainer import Trainer

Plant = Callable[[Session, Container[int]], str]


def plant(session: Session, bad: Container[int]) -> str:
    """The last sparse layer's experts give NaN on the batches of ``bad``; returns their name."""
    state = session.state
    _, layer = list(state.model.sparse_layers().items())[-1]

    def spoil(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        training = torch.is_grad_enabled() or state.model.training
        return output * torch.nan if training and state.control.batch in bad else output

    layer.experts.register_forward_hook(spoil)
    return next(name for name, module in state.model.named_modules() if module is layer.experts)


def trainer(session: Session, folder: Path | None) -> Trainer:
    hooks = [] if folder is None else [MetricsWriter(folder / "metrics.jsonl")]
    return Trainer(session.config, session.state, session.data, session.objective, hooks, folder)


def longer(config: RunConfig, steps: int, **guards: int) -> RunConfig:
    train = replace(config.train, steps=steps, save_every=4, eval_every=4)
    return replace(config, train=train, guards=GuardConfig(**guards))


def events(folder: Path) -> list[dict[str, object]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "event"]


def test_one_bad_step_is_skipped_and_named(tiny_run: RunConfig, tmp_path: Path) -> None:
    session = open_session(longer(tiny_run, 6))
    where = plant(session, {2})
    trainer(session, tmp_path).run()
    (event,) = events(tmp_path)
    assert (event["step"], event["name"]) == (3, "skip")
    assert str(event["text"]).startswith("language is nan")
    assert str(event["text"]).endswith(f"it begins in the output of {where}")
    assert (session.state.step, session.state.control.batch) == (6, 6)
    assert all(torch.isfinite(p).all() for p in session.state.model.parameters())


def test_ten_bad_batches_in_a_row_are_rolled_back_and_passed_over(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    # Steps 1..6 are good, batches 6..15 bad. With 10 allowed in a row the run goes back at step
    # 16, to the checkpoint of step 4, and takes batch 16 as its fifth: 20 steps end at batch 32.
    session = open_session(longer(tiny_run, 20, max_skipped=10))
    plant(session, range(6, 16))
    trainer(session, tmp_path).run()
    names = [event["name"] for event in events(tmp_path)]
    assert names == ["skip"] * 10 + ["rollback"]
    text = str(events(tmp_path)[-1]["text"])
    assert "10 steps in a row were skipped, the last because language is nan" in text
    assert text.endswith("back to step-00000004, on with batch 16")
    state = session.state
    assert (state.step, state.control.batch, state.control.rollbacks) == (20, 32, 1)
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    batches = [record["batch"] for record in records if record["kind"] == "step"]
    assert batches == [*range(16), *range(16, 32)]


def test_rolling_back_gives_the_weights_of_the_checkpoint(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    session = open_session(longer(tiny_run, 40, max_skipped=3, max_rollbacks=0))
    plant(session, range(5, 40))
    with pytest.raises(UserError, match=r"step 8: 3 steps .* went back 0 times already"):
        trainer(session, tmp_path).run()
    session = open_session(longer(tiny_run, 40, max_skipped=3, max_rollbacks=2))
    plant(session, range(5, 400))
    message = r"step 7: 3 steps in a row .* language is nan.* \(guards.max_rollbacks = 2\); lower"
    with pytest.raises(UserError, match=message):
        trainer(session, tmp_path / "again").run()
    # Each return begins at step 4, so the third streak ends at step 7; nothing was updated since.
    saved = load(folders.latest(tmp_path / "again"))
    assert saved.meta["step"] == 4
    for name, param in session.state.model.named_parameters():
        assert torch.equal(param, saved.tensors[f"model.{name}"]), name


def test_no_checkpoint_is_written_while_steps_are_skipped(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    session = open_session(longer(tiny_run, 14, max_skipped=12))
    plant(session, range(3, 10))  # steps 4 .. 10: the saves of steps 4 and 8 fall among them
    trainer(session, tmp_path).run()
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    saved = [record["step"] for record in records if record["kind"] == "checkpoint"]
    assert saved == [0, 12, 14]


def test_weights_that_are_not_finite_are_never_saved(tiny_run: RunConfig, tmp_path: Path) -> None:
    session = open_session(longer(tiny_run, 12))
    model, done = session.state.model, []
    weight = next(model.parameters())
    step = session.state.optimizer.step

    def spoil(*arguments: object) -> None:
        step()
        if session.state.control.batch == 7 and not done:
            done.append(True)
            with torch.no_grad():
                weight[0] = torch.inf  # an update that overflows: no loss has seen it yet

    session.state.optimizer.step = spoil  # type: ignore[method-assign]
    trainer(session, tmp_path).run()
    assert [e["name"] for e in events(tmp_path)] == ["rollback"]
    assert "no longer finite; back to step-00000004, on with batch 8" in str(
        events(tmp_path)[0]["text"]
    )
    for _, folder in folders.saved_steps(tmp_path):
        assert all(torch.isfinite(t).all() for t in load(folder).tensors.values())


def test_without_a_folder_there_is_nothing_to_go_back_to(tiny_run: RunConfig) -> None:
    session = open_session(longer(tiny_run, 12, max_skipped=2))
    plant(session, range(1, 12))
    with pytest.raises(UserError, match="there is no checkpoint to go back to; lower optimizer"):
        trainer(session, None).run()


def test_the_best_checkpoint_is_kept(tiny_run: RunConfig, tmp_path: Path) -> None:
    # A rate that soon makes things worse: the best evaluation is an early one.
    config = longer(tiny_run, 24)
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=0.5))
    session = open_session(config)
    trainer(session, tmp_path).run()
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = {r["step"]: r["loss"] for r in records if r["kind"] == "evaluation"}
    best = min(losses, key=losses.__getitem__)
    steps = [step for step, _ in folders.saved_steps(tmp_path)]
    meta = load_meta(folders.latest(tmp_path))
    assert meta["control"]["best"] == {"step": best, "loss": losses[best]}
    assert steps == sorted({best, 20, 24})
