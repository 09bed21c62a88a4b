"""Whole runs through the command line: train, resume, evaluate, generate."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from turnout.checkpoint import folders, write
from turnout.checkpoint.format import Piece
from turnout.checkpoint.read import load
from turnout.checkpoint.stream import Written
from turnout.cli.samples import blanked, filled
from turnout.data.tokenizers import ByteTokenizer
from turnout.train.step import optimiser_step

Turnout = Callable[..., Any]
Tiny = dict[str, tuple[str, ...]]


@pytest.mark.parametrize("objective", ["causal", "span"])
def test_a_run_from_training_to_text(
    turnout: Turnout, tiny: Tiny, tmp_path: Path, objective: str
) -> None:
    trained = turnout("train", *tiny[objective])
    assert trained.code == 0, trained.err
    run = "runs/switch_tiny" + ("" if objective == "causal" else "-span")
    assert "balance 0.01, router_z 0.001, importance OFF" in trained.out
    assert "step 3/3" in trained.out
    assert f"next: turnout generate {run} --prompt" in trained.out
    if objective == "causal":
        assert "order-5 n-gram" in trained.out
        assert "byte frequencies (order 0)" in trained.out
        assert "three prompts, completed:" in trained.out
        assert "    class " in trained.out
    else:
        assert "token frequencies" in trained.out
        assert "three blanks, filled in [brackets]:" in trained.out
    assert [step for step, _ in folders.saved_steps(tmp_path / run)] == [2, 3]

    evaluated = turnout("eval", run)
    assert evaluated.code == 0, evaluated.err
    records = [
        json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
    ]
    last = [record for record in records if record["kind"] == "evaluation"][-1]
    assert f"step 3: validation loss {last['loss']:.4f}" in evaluated.out

    prompt = "def f" if objective == "causal" else "def ___(x):\n    return ___"
    arguments = ("generate", run, "--prompt", prompt, "--max-new-tokens", "8")
    generated = turnout(*arguments)
    assert generated.code == 0, generated.err
    assert generated.out.startswith("def ")
    assert turnout(*arguments).out == generated.out


def test_resuming_equals_one_go(turnout: Turnout, tiny: Tiny, tmp_path: Path) -> None:
    assert turnout("train", *tiny["causal"], "--out", "one").code == 0
    assert turnout("train", *tiny["causal"], "--out", "two").code == 0
    folders.remove(folders.step_folder(tmp_path / "two", 3))
    resumed = turnout("train", "--resume", "two")
    assert resumed.code == 0, resumed.err
    assert "from step 2 to 3" in resumed.out
    one, two = (load(folders.step_folder(tmp_path / name, 3)) for name in ("one", "two"))
    assert one.meta == two.meta
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


def test_a_second_run_gets_a_folder_of_its_own(
    turnout: Turnout, tiny: Tiny, tmp_path: Path
) -> None:
    for _ in range(2):
        assert turnout("train", *tiny["causal"]).code == 0
    assert (tmp_path / "runs" / "switch_tiny" / "metrics.jsonl").is_file()
    assert (tmp_path / "runs" / "switch_tiny-2" / "metrics.jsonl").is_file()


def test_a_changed_model_does_not_load(turnout: Turnout, tiny: Tiny) -> None:
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    result = turnout("eval", "run", "--model.moe.num_experts", "8")
    assert result.code == 2
    assert "belongs to another model" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_one_line(
    turnout: Turnout, tiny: Tiny, number: signal.Signals
) -> None:
    def signalled(state: Any, *rest: Any) -> Any:
        if state.step == 0:
            os.kill(os.getpid(), number)
        return optimiser_step(state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("turnout.train.trainer.optimiser_step", signalled)
        result = turnout("train", *tiny["causal"], "--out", "run")
    assert result.code == 128 + number
    assert result.err == (
        f"stopped by {number.name} after step 1; to go on: turnout train --resume run\n"
    )
    resumed = turnout("train", "--resume", "run")
    assert resumed.code == 0
    assert "from step 1 to 3" in resumed.out


def test_blanks_become_sentinels_and_come_back() -> None:
    # "a___b___": a = 97 + 3 = 100, sentinels 383 and 382, b = 101, end of text 1.
    assert blanked("a___b___", ByteTokenizer()) == [100, 383, 101, 382, 1]
    # The decoder writes sentinel 0, "x" = 120 + 3 = 123, sentinel 1, "yz" = 124, 125.
    assert filled("a___b___", [383, 123, 382, 124, 125], ByteTokenizer()) == "a[x]b[yz]"
    # A blank that it never reached is empty; a sentinel without a blank fills nothing.
    assert filled("a___b___", [383, 123, 300, 124], ByteTokenizer()) == "a[x]b[]"


def test_a_prompt_without_a_blank_is_refused(turnout: Turnout, tiny: Tiny) -> None:
    assert turnout("train", *tiny["span"], "--out", "run").code == 0
    result = turnout("generate", "run", "--prompt", "def f")
    assert result.code == 2
    assert "this model fills blanks; mark them with ___" in result.err


def test_doctor_says_which_product_and_why(turnout: Turnout) -> None:
    result = turnout("doctor", "--rows", "64")
    assert result.code == 0, result.err
    assert "dtype auto:" in result.out
    assert "grouped_mm" in result.out
    assert "auto takes" in result.out
    assert "native" not in result.out


def test_an_older_step_is_not_resumed_over_a_newer_one(
    turnout: Turnout, tiny: Tiny, tmp_path: Path
) -> None:
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    refused = turnout("train", "--resume", "run/checkpoints/step-00000002")
    assert refused.code == 2 and "newer checkpoint, step-00000003" in refused.err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    shutil.copytree(tmp_path / "run/checkpoints/step-00000003", tmp_path / "away")
    refused = turnout("train", "--resume", "away")
    assert refused.code == 2 and "must be a run folder" in refused.err


def test_a_start_that_failed_leaves_its_folder_free(turnout: Turnout, tiny: Tiny) -> None:
    failed = turnout("train", *tiny["causal"], "--out", "run", "--losses.load", "1")
    assert failed.code == 2 and "losses.load" in failed.err
    assert turnout("train", *tiny["causal"], "--out", "run").code == 0


def test_what_the_disk_refuses_is_one_line(turnout: Turnout, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused = turnout("train", *tiny["causal"], "--out", "file")
    assert refused.code == 2 and refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1 and "file" in refused.err
    braces = turnout("train", *tiny["causal"], "--out", "runs/{x}")
    assert braces.code == 0 and (tmp_path / "runs" / "{x}" / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("room", "left"), [(0, "nothing was saved"), (2, "the run is kept up to step 2; to go on")]
)
def test_a_full_disk_is_one_line_and_loses_little(
    turnout: Turnout, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, room: int, left: str
) -> None:
    """Full at the first checkpoint, and at the third: those of steps 0 and 2 are there."""
    written, original = [0], write._write_shard

    def limited(path: Path, pieces: Sequence[Piece]) -> Written:
        written[0] += 1
        if written[0] > room:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_shard", limited)
        full = turnout("train", *tiny["causal"], "--out", "run")
    assert full.code == 2 and full.err.count("\n") == 1
    assert full.err.startswith("error: No space left on device while writing to run; ")
    assert left in full.err
    if room:
        assert turnout("train", "--resume", "run").code == 0
