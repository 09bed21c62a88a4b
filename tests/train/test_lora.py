"""Runs that train adapters: what moves and what does not, resuming, and what reads such a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import turnout
from turnout.checkpoint import folders
from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.read import load
from turnout.config.errors import ConfigError
from turnout.config.lora import LoraConfig
from turnout.config.optimizers import AdafactorConfig
from turnout.config.train import RunConfig
from turnout.convert.native import open_native
from turnout.models import Model, adapters
from turnout.train.header import run_header
from turnout.train.optim import role_of
from turnout.train.session import Session, load_run, open_session
from turnout.train.trainer import Trainer

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1, targets=("attention", "experts"))


@pytest.fixture
def lora_run(tiny_run: RunConfig) -> RunConfig:
    return replace(tiny_run, lora=LORA)


def train(session: Session, folder: Path | None, until: int | None = None) -> Session:
    Trainer.of(session, folder, []).run(until)
    return session


def copies(model: Model) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_move_and_nothing_else_a_bit(
    lora_run: RunConfig, optimizer: str, dtype: str
) -> None:
    config = replace(lora_run, train=replace(lora_run.train, dtype=dtype))
    if optimizer == "adafactor":
        config = replace(config, optimizer=AdafactorConfig(learning_rate=0.01, min_factored=4))
    session = open_session(config)
    plain = copies(open_session(replace(config, lora=None)).state.model)
    before = copies(session.state.model)
    train(session, None, 3)
    after = copies(session.state.model)
    own = set(adapters.extract(session.state.model))
    assert before.keys() - own == plain.keys()
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) == (name not in own), name
        assert name in own or torch.equal(weight, plain[name]), name


def test_adapters_belong_to_the_role_of_their_matrix(lora_run: RunConfig) -> None:
    """Adafactor takes those of stacked experts for so many matrices."""
    state = open_session(lora_run).state
    groups = {group["role"]: group["param_names"] for group in state.optimizer.param_groups}
    own = list(adapters.extract(state.model))
    assert sorted(name for names in groups.values() for name in names) == sorted(own)
    assert groups.keys() == {"other", "experts"}
    assert all(".experts." in name and role_of(name) == "experts" for name in groups["experts"])


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_resuming_changes_no_bit(lora_run: RunConfig, tmp_path: Path, average: float) -> None:
    config = replace(lora_run, train=replace(lora_run.train, average=average))
    whole = train(open_session(config), tmp_path / "whole").state
    train(open_session(config), tmp_path / "halves", until=3)
    half = folders.latest(tmp_path / "halves")
    resumed = open_session(config, half)
    train(resumed, tmp_path / "halves")
    for name, weight in copies(whole.model).items():
        assert torch.equal(weight, copies(resumed.state.model)[name]), name
    one, other = (load(folders.latest(tmp_path / name)).tensors for name in ("whole", "halves"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_header_names_what_is_adapted(lora_run: RunConfig) -> None:
    session = open_session(lora_run)
    header = run_header(session)
    (first,) = (line for line in header if line.startswith("adapters"))
    found = adapters.report(session.state.model)
    assert f"rank 4 on {len(found.carried)} matrices: {found.trained:,} parameters train" in first
    assert first.endswith("alpha 8, dropout 0.1")
    for line in found.lines()[1:]:
        assert f"           {line}" in header
    assert any("(the router is frozen)" in line for line in header)
    assert not any(line.startswith("adapters") for line in run_header(_without(lora_run)))


def _without(config: RunConfig) -> Session:
    return open_session(replace(config, lora=None))


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_run_is_loaded_merged(lora_run: RunConfig, tmp_path: Path, average: float) -> None:
    """By ``load_run``, by ``turnout.load``, and a tensor at a time as a conversion reads it."""
    config = replace(lora_run, train=replace(lora_run.train, average=average))
    session = train(open_session(config), tmp_path)
    state = session.state
    with torch.no_grad():
        for name, smooth in (state.average or {}).items():
            state.model.get_parameter(name).copy_(smooth)
    expected = copies(adapters.merged(state.model))
    for model in (load_run(tmp_path)[1], turnout.load(tmp_path)):
        found = copies(model)
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    native, base = open_native(tmp_path), open_native(tmp_path, merge=False)
    assert native.names == base.names == list(turnout.load(tmp_path).state_dict())
    untouched = copies(_without(config).state.model)
    adapted = {each.name for each in adapters.carried(state.model)}
    for name in untouched:
        assert torch.equal(base.read(name), untouched[name])
        assert torch.equal(native.read(name), untouched[name]) == (name not in adapted)


def test_a_model_with_adapters_is_saved_merged(lora_run: RunConfig, tmp_path: Path) -> None:
    model = train(open_session(lora_run), None, 3).state.model
    turnout.save(model, tmp_path / "saved")
    expected, found = copies(adapters.merged(model)), copies(turnout.load(tmp_path / "saved"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert any(adapters.carried(model))


def test_another_rank_or_none_is_another_model(lora_run: RunConfig, tmp_path: Path) -> None:
    train(open_session(lora_run), tmp_path)
    for lora in (None, replace(LORA, rank=5)):
        with pytest.raises(CheckpointError, match="_lora"):
            open_session(replace(lora_run, lora=lora), folders.latest(tmp_path))


def test_what_matches_nothing_is_refused_before_a_step(lora_run: RunConfig) -> None:
    config = replace(lora_run, lora=LoraConfig(targets=("experts", "gate_proj")))
    with pytest.raises(ConfigError, match=r"lora.targets = 'gate_proj': must be one of attention"):
        open_session(config)
    with pytest.raises(ConfigError, match=r"lora.rank = 65: must be at most 32"):
        open_session(replace(config, lora=LoraConfig(rank=65)))
