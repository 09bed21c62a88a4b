"""The loop: resuming, bad steps, coefficients without effect, metrics."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.read import load
from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.schedules import Cosine
from turnout.config.train import RunConfig
from turnout.train.dropout import seed_dropout
from turnout.train.evaluate import evaluate
from turnout.train.header import run_header
from turnout.train.hooks.metrics import MetricsWriter
from turnout.train.hooks.plain import PlainLines
from turnout.train.session import Session, load_run, open_session
from turnout.train.step import optimiser_step
from turnout.train.trainer import Trainer
from turnout.train.zero_gradient import _reaches


def _trainer(session: Session, folder: Path | None, *hooks: object) -> Trainer:
    return Trainer(
        session.config,
        session.state,
        session.data,
        session.objective,
        hooks,  # type: ignore[arg-type]
        folder,
        run_header(session),
    )


def _run(config: RunConfig, folder: Path, *, until: int | None = None) -> Session:
    session = open_session(config)
    _trainer(session, folder).run(until)
    return session


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("scope", ["group", "previous"])
def test_stopping_and_resuming_changes_no_bit(
    tiny_run: RunConfig, tmp_path: Path, optimizer: str, scope: str
) -> None:
    config = replace(tiny_run, losses=replace(tiny_run.losses, scope=scope))
    if optimizer == "adafactor":
        config = replace(config, optimizer=AdafactorConfig(learning_rate=0.01, min_factored=32))
    _run(config, tmp_path / "whole")
    _run(config, tmp_path / "halves", until=3)
    half = folders.latest(tmp_path / "halves")
    assert half.name == "step-00000003"
    resumed = open_session(config, half)
    assert resumed.state.step == 3
    _trainer(resumed, tmp_path / "halves").run()
    one = load(folders.latest(tmp_path / "whole"))
    two = load(folders.latest(tmp_path / "halves"))
    assert one.meta == two.meta
    assert one.meta["step"] == 6
    assert one.tensors.keys() == two.tensors.keys()
    assert any(name.startswith("optimizer.") for name in one.tensors)
    assert any(name.startswith("sums.") for name in one.tensors) == (scope == "previous")
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


def test_a_saved_run_loads_as_it_was(tiny_run: RunConfig, tmp_path: Path) -> None:
    session = _run(tiny_run, tmp_path / "run")
    config, model = load_run(tmp_path / "run")
    assert config == session.config
    assert config.model.moe is not None and config.model.moe.product != "auto"
    assert not model.training
    for (name, one), two in zip(
        session.state.model.named_parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(one, two), name


def test_another_models_checkpoint_is_refused(tiny_run: RunConfig, tmp_path: Path) -> None:
    _run(tiny_run, tmp_path / "run", until=1)
    checkpoint = folders.latest(tmp_path / "run")
    dense = replace(tiny_run, model=tiny_run.model.dense_twin())
    with pytest.raises(
        CheckpointError, match=r"belongs to another model: it has .*experts.* and lacks"
    ):
        open_session(dense, checkpoint)
    wider = io.override(tiny_run, {"model.moe.num_experts": "5"})
    with pytest.raises(CheckpointError, match=r"is float32 \[4, .*\], must be float32 \[5, "):
        open_session(wider, checkpoint)
    other = replace(tiny_run, optimizer=AdafactorConfig())
    with pytest.raises(CheckpointError, match="optimizer = 'adafactor': must be 'adamw'"):
        open_session(other, checkpoint)


def test_a_step_with_a_bad_gradient_is_skipped_and_named(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    session = open_session(tiny_run)
    model = session.state.model
    name, layer = next(iter(model.sparse_layers().items()))
    with torch.no_grad():
        layer.experts.w_in[0] = float("nan")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lines: list[str] = []
    config = replace(tiny_run, train=replace(tiny_run.train, steps=1))
    session = replace(session, config=config)
    _trainer(session, None, PlainLines(lines.append, 0.0)).run()
    assert "step 1: skip: language is nan" in "\n".join(lines)
    assert session.state.step == 1
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[key].nan_to_num(7.0)), key
    assert not session.state.optimizer.state
    assert name.split(".")[0] in ("decoder", "encoder")


def test_a_router_that_overflows_is_named(tiny_run: RunConfig) -> None:
    session = open_session(replace(tiny_run, losses=replace(tiny_run.losses, balance=0.0)))
    name, layer = next(iter(session.state.model.sparse_layers().items()))
    with torch.no_grad():
        next(layer.router.parameters()).fill_(3e38)
    lines: list[str] = []
    with pytest.raises(UserError, match="10 steps in a row were skipped"):
        config = replace(session.config, train=replace(session.config.train, steps=20))
        _trainer(replace(session, config=config), None, PlainLines(lines.append, 0.0)).run()
    assert f"first bad router sum: {name}." in "\n".join(lines)


def test_a_coefficient_without_effect_is_an_error(tiny_run: RunConfig) -> None:
    # The Switch router has no noise and so reports no smooth load.
    session = open_session(replace(tiny_run, losses=replace(tiny_run.losses, load=0.1)))
    with pytest.raises(
        UserError, match=r"losses.load = 0.1: has no gradient .* 'switch'; must be 0"
    ):
        _trainer(session, None).run()


def test_a_gradient_of_zero_reaches_nothing() -> None:
    weight, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    assert _reaches((2 * weight).sum(), [other, weight])
    assert not _reaches((0 * weight).sum(), [weight])
    assert not _reaches(other.sum(), [weight])
    assert not _reaches(torch.ones(()), [weight])


def test_dropout_is_drawn_anew_for_each_micro_batch_and_step_and_again_on_resuming() -> None:
    def draw(*key: int) -> tuple[float, ...]:
        seed_dropout(*key)
        return tuple(torch.rand(4).tolist())

    keys = list(itertools.product(range(3), repeat=3))
    drawn = {draw(*key) for key in keys}
    assert len(drawn) == len(keys)
    assert {draw(*key) for key in keys} == drawn


def test_every_micro_batch_of_a_step_has_its_own_dropout(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, seeded = open_session(tiny_run), []
    monkeypatch.setattr("turnout.train.step.seed_dropout", lambda *key: seeded.append(key))
    _trainer(session, None).run(2)
    # Two micro-batches a step, of 0-based steps 0 and 1.
    assert seeded == [(tiny_run.train.seed, step, part) for step in (0, 1) for part in (0, 1)]


def test_frozen_routers_are_said_to_be_frozen_and_are_no_error(tiny_run: RunConfig) -> None:
    session = open_session(replace(tiny_run, losses=replace(tiny_run.losses, load=0.1)))
    assert "balance 0.01, router_z 0.001, importance OFF, load 0.1" in "\n".join(
        run_header(session)
    )
    for layer in session.state.model.sparse_layers().values():
        layer.router.requires_grad_(False)
    header = "\n".join(run_header(session))
    frozen = "(the router is frozen)"
    expected = f"balance 0.01 {frozen}, router_z 0.001 {frozen}, importance OFF, load 0.1 {frozen}"
    assert expected in header
    _trainer(session, None).run(1)


def test_metrics_hold_each_step_once_after_resuming(tiny_run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    session = open_session(tiny_run)
    _trainer(session, tmp_path / "run", MetricsWriter(path)).run(5)
    with path.open("a") as file:
        file.write('{"kind": "step", "st')  # killed while it wrote
    folders.remove(folders.step_folder(tmp_path / "run", 5))
    resumed = open_session(tiny_run, folders.latest(tmp_path / "run"))
    _trainer(resumed, tmp_path / "run", MetricsWriter(path)).run()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "checkpoint"] == [0, 3, 6]
    for record in steps:
        layers = record["layers"].values()
        assert len(layers) == len(session.state.model.sparse_layers())
        assert all(sum(layer["assigned"]) == layer["tokens"] for layer in layers)
        assert math.isfinite(record["loss"])
    assert steps[-1]["tokens"] == resumed.state.tokens


def test_micro_batches_do_not_change_the_first_step(tiny_run: RunConfig) -> None:
    config = replace(tiny_run, model=replace(tiny_run.model, dropout=0.0))
    found = []
    for parts in (1, 2, 4):
        cut = replace(config, train=replace(config.train, micro_batches=parts))
        session = open_session(cut)
        _trainer(session, None).run(1)
        found.append(dict(session.state.model.named_parameters()))
    for other in found[1:]:
        for name, tensor in found[0].items():
            scale = float(tensor.detach().abs().max())
            # AdamW's first step is lr * sign(gradient): only a gradient near 0 may differ.
            close = (tensor - other[name]).abs() <= 1e-4 * max(scale, 1e-3)
            assert float(close.float().mean()) > 0.99, name


def test_another_text_is_refused(tiny_run: RunConfig, tmp_path: Path) -> None:
    corpus = tmp_path / "text"
    shutil.copytree(tiny_run.data.paths[0], corpus)
    tiny_run = replace(tiny_run, data=replace(tiny_run.data, paths=(str(corpus),)))
    _run(tiny_run, tmp_path / "run")
    (corpus / "new.txt").write_text("a document that was not there before\n" * 40)
    with pytest.raises(UserError, match=r"data.paths: the text .* is not what .* was trained on"):
        open_session(tiny_run, folders.latest(tmp_path / "run"))


def test_gradients_are_clipped_and_the_rate_follows_the_schedule(tiny_run: RunConfig) -> None:
    # Plain descent at rate 1 moves by the gradient itself, so its length is the clipped norm.
    clip, warmup = 0.1, 4
    config = replace(
        tiny_run,
        optimizer=AdamWConfig(learning_rate=4.0),
        schedule=Cosine(warmup=warmup, floor=0.0),
        train=replace(tiny_run.train, clip_norm=clip, steps=100),
    )
    session = open_session(config)
    parameters = list(session.state.model.parameters())
    state = replace(session.state, optimizer=torch.optim.SGD(parameters, lr=1.0))
    before = [parameter.detach().clone() for parameter in parameters]
    report = optimiser_step(state, session.objective, session.data.micro_batches(0), config)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)])
    assert report.gradient_norm > clip
    # the first of four warm-up steps: a quarter of the configured rate
    assert report.learning_rate == pytest.approx(4.0 / warmup)
    assert float(moved.norm()) == pytest.approx(clip * report.learning_rate, rel=1e-3)


def test_a_gradient_that_is_not_finite_skips_the_step(tiny_run: RunConfig) -> None:
    session = open_session(tiny_run)
    model = session.state.model
    name, weight = next(iter(model.named_parameters()))
    weight.register_hook(lambda grad: torch.full_like(grad, torch.inf))
    before = weight.detach().clone()
    batches = session.data.micro_batches(0)
    report = optimiser_step(session.state, session.objective, batches, tiny_run)
    assert math.isfinite(report.loss) and name in report.skipped
    assert torch.equal(weight.detach(), before)


def test_evaluation_reports_what_it_drops(tiny_run: RunConfig) -> None:
    assert tiny_run.model.moe is not None
    tight = replace(tiny_run.model.moe, eval_capacity_factor=0.3, min_capacity=1)
    shares = []
    for moe in (tiny_run.model.moe, tight):
        session = open_session(replace(tiny_run, model=replace(tiny_run.model, moe=moe)))
        validation = session.data.validation()
        shares.append(evaluate(session.state.model, session.objective, validation).dropped)
    assert shares[0] == 0.0 and shares[1] > 0.3
