"""The moving average of the weights, and gradients scaled by role."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.train import RunConfig
from turnout.train.average import averaged, start_average, update_average
from turnout.train.evaluate import evaluate
from turnout.train.optim import expert_parameters
from turnout.train.session import load_run, open_session
from turnout.train.step import optimiser_step
from turnout.train.trainer import Trainer


def test_the_average_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(8.0)
    weights = dict(model.named_parameters())
    average = start_average(weights)
    for value in (0.0, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
        update_average(average, weights, 0.75)
    # .75 * 8 + .25 * 0 = 6; .75 * 6 + .25 * 4 = 5.5
    assert average["weight"].item() == 5.5
    with averaged(weights, average):
        assert model.weight.item() == 5.5
    assert model.weight.item() == 4.0
    with pytest.raises(RuntimeError, match="inside"), averaged(weights, average):
        raise RuntimeError("inside")
    assert model.weight.item() == 4.0


def test_a_run_evaluates_saves_and_loads_its_average(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, average=0.5))
    session = open_session(config)
    first = {name: p.detach().clone() for name, p in session.state.model.named_parameters()}
    hooks: list[object] = []
    evaluation = Trainer(
        session.config, session.state, session.data, session.objective, hooks, tmp_path
    ).run()
    state = session.state
    assert state.average is not None
    assert not torch.equal(state.average["embedding.weight"], first["embedding.weight"])
    validation = session.data.validation()
    raw = evaluate(state.model, session.objective, validation)
    with averaged(state.weights, state.average):
        smooth = evaluate(state.model, session.objective, validation)
    assert evaluation.loss == smooth.loss != raw.loss
    _, model = load_run(tmp_path)
    assert evaluate(model, session.objective, validation).loss == smooth.loss
    assert any(name.startswith("average.") for name in load(folders.latest(tmp_path)).tensors)


def test_an_average_may_begin_on_resuming(tiny_run: RunConfig, tmp_path: Path) -> None:
    session = open_session(tiny_run)
    Trainer(session.config, session.state, session.data, session.objective, (), tmp_path).run(3)
    config = replace(tiny_run, train=replace(tiny_run.train, average=0.9))
    resumed = open_session(config, folders.latest(tmp_path))
    for name, param in session.state.model.named_parameters():
        assert torch.equal(resumed.state.average[name], param), name  # type: ignore[index]


def test_expert_gradients_are_scaled_by_one_over_the_root_of_experts(tiny_run: RunConfig) -> None:
    # Clipping off and plain descent at rate 1: a weight moves by its gradient.
    def moved(expert_gradient: str) -> dict[str, torch.Tensor]:
        train = replace(tiny_run.train, clip_norm=0.0, expert_gradient=expert_gradient)
        config = replace(tiny_run, train=train)
        session = open_session(config)
        before = {n: p.detach().clone() for n, p in session.state.model.named_parameters()}
        descent = torch.optim.SGD(session.state.model.parameters(), lr=1.0)
        state = replace(session.state, optimizer=descent)
        optimiser_step(state, session.objective, session.data.micro_batches(0), config)
        experts = {id(p) for p in expert_parameters(session.state.model)}
        assert experts
        return {
            f"{'expert ' if id(p) in experts else ''}{n}": p.detach() - before[n]
            for n, p in session.state.model.named_parameters()
        }

    full, scaled = moved("full"), moved("inverse_sqrt")
    for name, change in full.items():
        factor = 0.5 if name.startswith("expert ") else 1.0  # 4 experts
        torch.testing.assert_close(scaled[name], change * factor, rtol=2e-2, atol=1e-6)
