"""Text through the command line: building it, describing it, and tokenizers of runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from turnout.cli import data_build, data_info
from turnout.cli.build_progress import Bar, Lines, build_progress
from turnout.config.errors import UserError

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]


def test_build_and_info(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(text_folder), "--data.validation-share", "0.2"]
    assert data_build.run(arguments) == 0
    built = capsys.readouterr()
    assert "12 documents" in built.out and "overlap" in built.out and built.err == ""
    assert "bytes, 384 ids, 125 sentinels" in built.out
    assert data_info.run(arguments) == 0
    assert capsys.readouterr() == built
    learnt = [*arguments, "--data.tokenizer", "trained", "--data.tokenizer.vocab-size", "400"]
    assert data_info.run(learnt) == 0
    assert "sentencepiece, 400 ids, 100 sentinels" in capsys.readouterr().out


def test_what_a_build_refuses(text_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.tokenizer.kind = 'words': must be one of bytes"):
        data_build.run(["--data.tokenizer", "words"])
    with pytest.raises(UserError, match=r"no such option; did you mean 'text_field'"):
        data_build.run(["--data.text-fields", "x"])
    with pytest.raises(UserError, match="no option --datas; did you mean --data"):
        data_build.run(["--datas", str(text_folder)])


@pytest.mark.parametrize("objective", ["causal", "span"])
def test_a_run_keeps_its_vocabulary(
    turnout: Turnout, tiny: Tiny, tmp_path: Path, objective: str
) -> None:
    cache = tmp_path / "cache"
    options = ("--data.tokenizer", "trained", "--data.tokenizer.vocab-size", "400")
    small = turnout("train", *tiny[objective], *options, "--out", "run")
    assert small.code == 2
    assert "give --model.vocab-size 400" in small.err and small.err.count("\n") == 1
    options = (*options, "--model.vocab-size", "400", "--data.cache", str(cache))
    trained = turnout("train", *tiny[objective], *options, "--out", "run")
    assert trained.code == 0, trained.err
    assert len(list((tmp_path / "run" / "tokenizer").iterdir())) == 1
    shutil.rmtree(cache)
    prompt = "def f" if objective == "causal" else "def ___(x):\n    return ___"
    generated = turnout("generate", "run", "--prompt", prompt, "--max-new-tokens", "8")
    assert generated.code == 0, generated.err
    assert turnout("eval", "run").code == 0
    resumed = turnout("train", "--resume", "run", "--train.steps", "4")
    assert resumed.code == 0, resumed.err
    assert "from step 3 to 4" in resumed.out

    other = turnout("train", "--resume", "run", "--data.tokenizer", "bytes")
    assert other.code == 2 and other.err.count("\n") == 1
    assert "data.tokenizer = 'bytes'" in other.err and "does not match" in other.err
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    lost = turnout("generate", "run", "--prompt", prompt)
    assert lost.code == 2 and lost.err.count("\n") == 1
    assert "own copy" in lost.err and "is missing" in lost.err


def test_lines_come_now_and_then() -> None:
    said: list[str] = []
    clock = [0.0]
    lines = Lines(said.append, lambda: clock[0])
    lines.begin("tokenising", 4_000_000)
    for now in (1.0, 3.5, 9.0, 14.0):
        clock[0] = now
        lines.advance(1_000_000)
    lines.end()
    # The first after three seconds, the next at least ten seconds later.
    assert said == ["data: tokenising: 2.0 of 4.0 MB", "data: tokenising: 4.0 of 4.0 MB"]
    lines.begin("reading text", 0)
    clock[0] = 20.0
    lines.advance(500_000)
    lines.note("a note")
    assert said[2:] == ["data: reading text: 0.5 MB", "a note"]


def test_a_bar_is_gone_when_its_work_is_done() -> None:
    console = Console(force_terminal=True, width=80, record=True, file=None, stderr=True)
    bar = Bar(console)
    bar.begin("tokenising [x]", 100)
    bar.advance(100)
    bar.note("a [note]")
    bar.end()
    assert "a [note]" in console.export_text()


def test_no_bar_without_a_terminal() -> None:
    progress = build_progress()
    progress.begin("reading text", 1)
    progress.advance(1)
    progress.end()
    assert isinstance(progress, Lines)
