"""``turnout generate`` from trained runs: as it comes, up to a stop, by beams, interrupted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from turnout.cli import samples
from turnout.generate import Piece

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]
PROMPT = ("generate", "run", "--prompt", "def f", "--max-new-tokens", "12")


@pytest.fixture
def trained(turnout: Turnout, tiny: Tiny) -> Turnout:
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    return turnout


def test_one_prompt_reads_as_among_several(trained: Turnout) -> None:
    alone = trained(*PROMPT)
    assert alone.code == 0 and alone.out.startswith("def f")
    both = trained(*PROMPT, "--prompt", "class A")
    assert both.out.startswith(alone.out) and "\nclass A" in both.out


def test_the_answer_ends_before_a_stop(trained: Turnout) -> None:
    free = trained(*PROMPT).out.removesuffix("\n")
    new = free.removeprefix("def f")
    stop = new[3:5]
    arguments = (*PROMPT, "--stop", stop, "--stop", "never there")
    assert trained(*arguments).out == f"def f{new[: new.index(stop)]}\n"
    assert trained(*arguments, "--prompt", "x").out.startswith(f"def f{new[: new.index(stop)]}\n")


def test_beams_and_penalties(trained: Turnout) -> None:
    beams = (*PROMPT, "--num-beams", "3", "--length-penalty", "0", "--early-stopping", "never")
    found = trained(*beams)
    assert found.code == 0, found.err
    assert found.out.startswith("def f") and found.out == trained(*beams).out
    assert found.out != trained(*beams, "--repetition-penalty", "100").out
    greedy = trained(*PROMPT, "--temperature", "0", "--min-new-tokens", "12")
    assert greedy.code == 0, greedy.err
    refused = trained("generate", "run", "--prompt", "d" * 100, "--min-new-tokens", "100")
    assert refused.code == 2 and refused.err.startswith("error: min_new_tokens = 100: must be")


def test_an_interruption_is_one_line(trained: Turnout, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[Piece]:
        yield Piece(0, "oo")
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "stream_text", interrupted)
    result = trained(*PROMPT)
    assert (result.code, result.out, result.err) == (130, "def foo\n", "interrupted\n")


def test_pieces_come_when_they_are_made(
    trained: Turnout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def slow(*_: object, **__: object) -> Iterator[Piece]:
        for text in ("o", "€"):
            yield Piece(0, text)
            seen.append(capsys.readouterr().out)

    monkeypatch.setattr(samples, "stream_text", slow)
    assert trained(*PROMPT).code == 0
    assert seen == ["def fo", "€"]


def test_filled_blanks_have_no_stop(turnout: Turnout, tiny: Tiny, tmp_path: Path) -> None:
    assert turnout("train", *tiny["span"], "--out", "run").code == 0
    asked = ("generate", "run", "--prompt", "def ___(x)", "--max-new-tokens", "8")
    assert turnout(*asked, "--num-beams", "2").out.startswith("def [")
    refused = turnout(*asked, "--stop", "x")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: stop = 'x': must be left out where blanks are filled")
