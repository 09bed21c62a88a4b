"""What a user sees after a mistake: one line on stderr, exit code 2, the likely fix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Turnout = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "no command 'trian'; did you mean 'train'?"),
        (("train", "switch_dem"), "no preset 'switch_dem'; did you mean 'switch_demo'?"),
        (("train", "--batch-row", "3"), "no option --batch-row; did you mean --train.batch-rows?"),
        (("train", "--objectve", "span"), "no option --objectve; did you mean --objective?"),
        (("train", "--zzz"), "no option --zzz; see `turnout train --help`"),
        (
            ("train", "--train.step", "3"),
            "train.step: no such option; did you mean 'steps'?",
        ),
        (("train", "a", "b"), "unexpected argument 'b'; see `turnout train --help`"),
        (("train", "--train.steps", "abc"), "train.steps = 'abc': must be a whole number"),
        (("train", "--train.steps", "0"), "train.steps = 0: must be at least 1"),
        (
            ("train", "--train.steps", "1", "--train.steps=2"),
            "option --train.steps is given twice",
        ),
        (
            ("train", "--model.moe.train-capacity-factor", "0"),
            "model.moe.train_capacity_factor = 0.0: must be above 0; or none, which drops no token",
        ),
        (("train", "--config", "no.toml"), "cannot read 'no.toml': No such file or directory"),
        (("train", "--resume", "no"), "no: no such run folder"),
        (
            ("train", "switch_tiny", "--resume", "no"),
            "--resume no: takes no preset, the run has its own; dotted options such as "
            "--train.steps 2000 do change it",
        ),
        (("train", "--resume", "no", "--dense"), "--resume no: takes no --dense, the run has its"),
        (("train", "--dense", "--router", "top2"), "--router top2: the model has no sparse layer"),
        (("eval",), "the following arguments are required: RUN; see `turnout eval --help`"),
        (("generate", "no"), '--prompt is missing; such as --prompt "def "'),
        (("generate", "no", "--prompt", "a"), "no: no such run folder"),
        (("generate", "no", "--prompt", "a", "--top-k", "0"), "top_k = 0: must be at least 1"),
        (("generate", "no", "--prompt", "a", "--stop", ""), "--stop = '': must be a text of"),
        (
            ("generate", "no", "--prompt", "a", "--num-beams", "2", "--temperature", "1"),
            "num_beams = 2: must be 1 with temperature 1; beam search draws nothing",
        ),
        (
            ("generate", "no", "--prompt", "a", "--early-stopping", "soon"),
            "argument --early-stopping: invalid choice: 'soon'",
        ),
        (("doctor", "--rows", "x"), "argument --rows: invalid int value: 'x'"),
    ],
)
def test_a_mistake_is_one_line(turnout: Turnout, arguments: tuple[str, ...], message: str) -> None:
    result = turnout(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: {message}")
    assert result.err.count("\n") == 1


def test_more_choices_than_experts(turnout: Turnout) -> None:
    result = turnout("train", "--router", "top_k", "--model.moe.router.k", "9", "--dry-run")
    assert result.code == 2
    assert "model.moe.num_experts = 8: must be at least 9" in result.err


def test_an_unknown_router_gets_the_nearest(turnout: Turnout) -> None:
    result = turnout("train", "--router", "topk", "--dry-run")
    assert result.code == 2
    assert "did you mean 'top_k'?" in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        (b"", "is empty; give a file of UTF-8 text"),
        (b"a", "too short"),
        (b"\0\1\2" * 100, "is binary; give a file of UTF-8 text"),
    ],
)
def test_bad_text_is_named(
    turnout: Turnout, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    result = turnout("train", "--data", "text.txt")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_a_run_is_not_overwritten(turnout: Turnout, tmp_path: Path) -> None:
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    result = turnout("train", "--out", "old")
    assert result.code == 2
    assert "--out old: already holds a run; continue it with --resume old" in result.err


def test_the_next_command_is_one_that_works_here(monkeypatch, tmp_path):
    from turnout.cli.arguments import command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv" / "bin" / "turnout"), "train"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command() == ".venv/bin/turnout"
    monkeypatch.setattr("sys.argv", ["/somewhere/pytest"])
    assert command() == "turnout"
