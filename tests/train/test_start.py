"""A run begins with the weights of a model that is there, and says which."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from turnout.config.errors import UserError
from turnout.config.presets import dense_twin
from turnout.config.start import StartConfig
from turnout.config.train import RunConfig
from turnout.convert.api import load, save
from turnout.train.header import run_header
from turnout.train.session import load_run, open_session
from turnout.train.state import model_tensors
from turnout.train.trainer import Trainer


@pytest.fixture
def run_folder(tiny_run: RunConfig, tmp_path: Path) -> Path:
    Trainer.of(open_session(tiny_run), tmp_path / "first").run(until=2)
    return tmp_path / "first"


def test_all_weights_are_those_of_the_other_run(tiny_run: RunConfig, run_folder: Path) -> None:
    begun = open_session(replace(tiny_run, start=StartConfig(str(run_folder))))
    _, other = load_run(run_folder)
    ours = model_tensors(begun.state.model)
    for name, tensor in model_tensors(other).items():
        assert torch.equal(tensor, ours[name]), name
    assert begun.state.step == 0
    assert f"start      {len(ours)} tensors of {run_folder}" in "\n".join(run_header(begun))


def test_a_dense_student_takes_what_is_no_experts(tiny_run: RunConfig, run_folder: Path) -> None:
    student = replace(dense_twin(tiny_run), start=StartConfig(str(run_folder), "shared"))
    session = open_session(student)
    fresh = model_tensors(open_session(dense_twin(tiny_run)).state.model)
    _, teacher = load_run(run_folder)
    theirs = model_tensors(teacher)
    for name, tensor in model_tensors(session.state.model).items():
        expected = theirs[name] if name in theirs else fresh[name]
        assert torch.equal(tensor, expected), name
    # What a sparse layer has in the place of a dense one is fresh, and nothing else.
    assert session.begun.found.fresh
    assert all("feed_forward.network" in name for name in session.begun.found.fresh)
    assert all(".moe." in name for name in session.begun.found.unused)
    header = "\n".join(run_header(session))
    assert "fresh: " in header
    assert "not taken: " in header


def test_a_hugging_face_folder_is_a_start(tmp_path: Path, tiny_run: RunConfig) -> None:
    if tiny_run.model.kind != "encoder_decoder":
        return  # the small decoder is of no family there; the other half of the pair is
    session = open_session(tiny_run)
    save(session.state.model, tmp_path / "hf", format="huggingface")
    begun = open_session(replace(tiny_run, start=StartConfig(str(tmp_path / "hf"))))
    ours = model_tensors(begun.state.model)
    for name, tensor in model_tensors(load(tmp_path / "hf")).items():
        assert torch.equal(tensor, ours[name]), name


def test_another_model_is_refused_by_name(tiny_run: RunConfig, run_folder: Path) -> None:
    start = StartConfig(str(run_folder))
    with pytest.raises(UserError, match=r"is of another model: it lacks .*; nothing takes its"):
        open_session(replace(dense_twin(tiny_run), start=start))
    with pytest.raises(UserError, match="no such run folder"):
        open_session(replace(tiny_run, start=StartConfig(str(run_folder / "nowhere"))))


def test_nothing_in_common_is_refused(tiny_run: RunConfig, run_folder: Path) -> None:
    attention = replace(tiny_run.model.attention, num_heads=3)
    wider = replace(tiny_run.model, d_model=48, attention=attention)
    run = replace(tiny_run, model=wider, start=StartConfig(str(run_folder), "shared"))
    with pytest.raises(UserError, match="has no tensor of this model's names and shapes"):
        open_session(run)


def test_shared_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"start.weights = 'shared': must be left out"):
        StartConfig("", "shared")
