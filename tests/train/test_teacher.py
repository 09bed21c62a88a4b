"""A run with a teacher: asked while it trains, or beforehand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from turnout.config.distillation import DistillationConfig
from turnout.config.errors import UserError
from turnout.config.presets import dense_twin
from turnout.config.train import RunConfig
from turnout.objectives.soft_targets import soft_loss
from turnout.train import teacher_cache
from turnout.train.header import run_header
from turnout.train.session import open_session
from turnout.train.state import model_tensors
from turnout.train.trainer import Trainer


@pytest.fixture
def teacher(tiny_run: RunConfig, tmp_path: Path) -> str:
    Trainer.of(open_session(tiny_run), tmp_path / "teacher").run(until=3)
    return str(tmp_path / "teacher")


def student(run: RunConfig, teacher: str, cache: Path, **fields: object) -> RunConfig:
    data = replace(run.data, cache=str(cache))
    asked = DistillationConfig(teacher, **fields)  # type: ignore[arg-type]
    return replace(dense_twin(run), data=data, distillation=asked)


def test_a_student_follows_its_teacher(tiny_run: RunConfig, teacher: str, tmp_path: Path) -> None:
    train = replace(tiny_run.train, steps=12, eval_every=12)
    run = replace(tiny_run, train=train)
    asked = student(run, teacher, tmp_path, soft=0.9)
    session = open_session(asked)
    assert f"teacher    {teacher}/checkpoints/step-00000003: 0.9 of the language loss" in "\n".join(
        run_header(session)
    )
    batches = session.data.validation()

    def apart() -> float:
        model = session.state.model.eval()
        lesson = session.objective.lesson
        assert lesson is not None
        with torch.no_grad():
            return sum(float(soft_loss(model(b), b, lesson.teacher)) for b in batches)

    before = apart()
    evaluation = Trainer.of(session).run()
    assert apart() < before
    assert evaluation.terms["soft"] > 0


def test_the_cache_says_what_the_teacher_says(
    tiny_run: RunConfig, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the whole vocabulary kept a run is the one with the teacher in memory."""
    vocabulary = tiny_run.model.vocab_size
    online = open_session(student(tiny_run, teacher, tmp_path))
    cached = open_session(student(tiny_run, teacher, tmp_path, top=vocabulary))
    for session in (online, cached):
        Trainer.of(session).run()
    ours = model_tensors(cached.state.model)
    for name, tensor in model_tensors(online.state.model).items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(teacher_cache, "_write", refuse)
    open_session(student(tiny_run, teacher, tmp_path, top=vocabulary))
    with pytest.raises(AssertionError, match="asked again"):
        open_session(student(tiny_run, teacher, tmp_path, top=2))


def test_a_row_that_was_not_asked_about_is_refused(
    tiny_run: RunConfig, teacher: str, tmp_path: Path
) -> None:
    session = open_session(student(tiny_run, teacher, tmp_path, top=2))
    assert session.objective.lesson is not None
    (stray, *_) = session.data.micro_batches(tiny_run.train.steps)
    with pytest.raises(UserError, match="not in the cache of the teacher"):
        session.objective.lesson.teacher.targets(stray)
    (known, *_) = session.data.micro_batches(0)
    kept = session.objective.lesson.teacher.targets(known)
    assert kept.log_p.shape == (int(known.target_mask.sum()), 2)  # type: ignore[attr-defined]
    assert np.all(np.diff(kept.log_p.numpy(), axis=1) <= 0)  # type: ignore[attr-defined]


def test_an_interrupted_cache_is_made_again(
    tiny_run: RunConfig, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = student(tiny_run, teacher, tmp_path, top=2)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(teacher_cache, "_most", fail)
        with pytest.raises(KeyboardInterrupt):
            open_session(asked)
    assert open_session(asked).objective.lesson is not None


def test_resuming_goes_on_with_the_teacher(
    tiny_run: RunConfig, teacher: str, tmp_path: Path
) -> None:
    asked = student(tiny_run, teacher, tmp_path)
    whole = open_session(asked)
    Trainer.of(whole, tmp_path / "whole").run()
    Trainer.of(open_session(asked), tmp_path / "cut").run(until=3)
    again = open_session(asked, tmp_path / "cut")
    Trainer.of(again, tmp_path / "cut").run()
    ours = model_tensors(again.state.model)
    for name, tensor in model_tensors(whole.state.model).items():
        assert torch.equal(ours[name], tensor), name


def test_teachers_of_other_tokens_or_rows_are_refused(
    tiny_run: RunConfig, teacher: str, tmp_path: Path
) -> None:
    from turnout.config.tokenizers import TrainedConfig

    asked = student(tiny_run, teacher, tmp_path)
    model = replace(asked.model, vocab_size=512)
    other = replace(asked, model=model, data=replace(asked.data, tokenizer=TrainedConfig(500)))
    with pytest.raises(UserError, match=r"data\.tokenizer = 'trained' .* does not match"):
        open_session(other)
    with pytest.raises(UserError, match="has 384 entries in its vocabulary, must have the student"):
        open_session(replace(asked, model=model))
    with pytest.raises(UserError, match=r"distillation.top = 4000: must be at most 384"):
        open_session(student(tiny_run, teacher, tmp_path, top=4000))
    with pytest.raises(UserError, match="no such run folder"):
        open_session(student(tiny_run, str(tmp_path / "nowhere"), tmp_path))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"soft": 0.0}, "distillation.soft = 0.0: must be above 0"),
        ({"soft": 1.5}, "distillation.soft = 1.5: must be above 0 and at most 1"),
        ({"until": 0.0}, "distillation.until"),
        ({"temperature": 0.0}, "distillation.temperature"),
        ({"top": -1}, "distillation.top = -1"),
        ({"top": 4, "temperature": 2.0}, "must be 1 with distillation.top"),
    ],
)
def test_impossible_lessons(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        DistillationConfig("x", **fields)  # type: ignore[arg-type]


def test_the_text_must_be_left_something_for_the_z_loss(tiny_run: RunConfig) -> None:
    losses = replace(tiny_run.losses, head_z=0.1)
    with pytest.raises(
        UserError, match=r"losses.head_z = 0.1: must be 0 with distillation.soft = 1"
    ):
        replace(tiny_run, losses=losses, distillation=DistillationConfig("x", soft=1.0))
