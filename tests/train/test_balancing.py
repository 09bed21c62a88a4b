"""Balancers learn of a whole step's loads and of no more; their state is kept like weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from turnout.checkpoint import folders
from turnout.checkpoint.read import load
from turnout.config.routers import (
    DenseToSparseRouter,
    RouterConfig,
    SigmoidTopKRouter,
)
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.moe.routers.balancer import LoadBias
from turnout.moe.stats import RouterStats
from turnout.train.average import averaged
from turnout.train.session import Session, load_run, open_session
from turnout.train.step import optimiser_step
from turnout.train.trainer import Trainer

RATE = 0.125


def routed(config: RunConfig, router: RouterConfig) -> RunConfig:
    moe = config.model.moe
    assert moe is not None
    return replace(config, model=replace(config.model, moe=replace(moe, router=router)))


@pytest.fixture
def balanced_run(tiny_run: RunConfig) -> RunConfig:
    return routed(tiny_run, SigmoidTopKRouter(2, RATE))


def biases(model: Model) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if name.endswith("balancer.bias")}


def reports(session: Session) -> list[list[RouterStats]]:
    """What the routers report in each forward pass, by layer; filled as the model runs."""
    seen: list[list[RouterStats]] = []
    for layer in session.state.model.sparse_layers().values():
        mine: list[RouterStats] = []
        seen.append(mine)
        layer.router.register_forward_hook(
            lambda _, inputs, found, mine=mine: mine.append(found[1])
        )
    return seen


def step(session: Session) -> str:
    batches = session.data.micro_batches(session.state.control.batch)
    return optimiser_step(session.state, session.objective, batches, session.config).skipped


def test_the_loads_of_all_micro_batches_are_added(
    balanced_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(balanced_run)
    seen, told = reports(session), []
    monkeypatch.setattr(LoadBias, "after_step", lambda _, *arguments: told.append(arguments))
    step(session)
    assert len(told) == len(seen) > 0
    for (assigned, tokens), parts in zip(told, seen, strict=True):
        assert len(parts) == balanced_run.train.micro_batches == 2
        one, two = (part.assigned.sum(0) for part in parts)
        assert torch.equal(assigned, one + two) and int(assigned.sum()) == 2 * tokens
        assert tokens == sum(int(part.tokens.sum()) for part in parts)


def test_the_bias_follows_the_step(balanced_run: RunConfig) -> None:
    session = open_session(balanced_run)
    seen = reports(session)
    step(session)
    for bias, parts in zip(biases(session.state.model).values(), seen, strict=True):
        assigned = torch.stack([part.assigned.sum(0) for part in parts]).sum(0).double()
        assert bias.tolist() == (RATE * torch.sign(assigned.mean() - assigned)).tolist()


def test_a_skipped_step_moves_nothing(balanced_run: RunConfig) -> None:
    session = open_session(balanced_run)
    step(session)
    before = biases(session.state.model)
    layer = list(session.state.model.sparse_layers().values())[-1]
    spoil = layer.experts.register_forward_hook(lambda _, inputs, rows: rows * torch.nan)
    assert "nan" in step(session)
    after = biases(session.state.model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    spoil.remove()
    assert step(session) == ""
    assert any(not torch.equal(b, before[n]) for n, b in biases(session.state.model).items())


def test_neither_optimiser_nor_average_holds_a_bias(balanced_run: RunConfig) -> None:
    train = replace(balanced_run.train, average=0.5)
    session = open_session(replace(balanced_run, train=train))
    state = session.state
    step(session)
    held = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    buffers = dict(state.model.named_buffers())
    found = biases(state.model)
    assert len(found) == len(state.model.sparse_layers())
    for name, bias in found.items():
        assert id(buffers[name]) not in held and name not in (state.average or {})
        assert bias.dtype == torch.float32 and not buffers[name].requires_grad
        assert set(bias.tolist()) <= {-RATE, 0.0, RATE} and bias.any()  # whole steps, no decay
    with averaged(state.weights, state.average):
        inside = biases(state.model)
    assert all(torch.equal(inside[name], found[name]) for name in found)


def test_a_bias_is_saved_resumed_and_loaded_to_the_bit(
    balanced_run: RunConfig, tmp_path: Path
) -> None:
    def run(folder: Path, until: int | None = None) -> Model:
        session = open_session(balanced_run, folders.latest(folder) if folder.exists() else None)
        Trainer.of(session, folder).run(until)
        return session.state.model

    whole = run(tmp_path / "whole")
    half = biases(run(tmp_path / "halves", until=3))
    saved = load(folders.latest(tmp_path / "halves")).tensors
    assert all(torch.equal(saved[f"model.{name}"], bias) for name, bias in half.items())
    resumed = run(tmp_path / "halves")
    assert len(biases(whole)) == len(whole.sparse_layers())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    _, loaded = load_run(tmp_path / "whole")
    assert all(torch.equal(biases(loaded)[name], bias) for name, bias in biases(whole).items())
    assert any(not torch.equal(biases(whole)[name], bias) for name, bias in half.items())


@pytest.mark.parametrize("tiny_run", ["causal"], indirect=True)
def test_a_run_tells_its_router_how_far_it_is(tiny_run: RunConfig) -> None:
    router = DenseToSparseRouter(start=2.0, end=0.01, anneal=0.8, gumbel=False)
    session = open_session(routed(tiny_run, router))
    (seen,) = reports(session)
    for _ in range(tiny_run.train.steps):
        step(session)
    assert int(seen[0].assigned.sum()) > 1.5 * int(seen[-1].assigned.sum())
