"""The command as a user types it: processes that torchrun starts, and how they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOOK = """
from turnout.train.hooks.plain import PlainLines


def factory(folder):
    steps = []

    def say(line):
        steps.append(line)
        if line.startswith("step 2"):
            raise RuntimeError("the tracker broke")

    return PlainLines(say, every=0.0)
"""
SMALL = (
    *("--train.steps", "4", "--train.batch-rows", "4", "--train.eval-every", "4"),
    *("--train.eval-rows", "4", "--train.save-every", "2", "--train.dtype", "float32"),
)


def torchrun(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``torchrun -m turnout train switch_tiny`` in ``folder``."""
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "--monitor-interval", "0.1"),
        *("-m", "turnout", "train", *options),
    )
    path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_run_and_its_resumption_on_another_layout(tmp_path: Path, text_folder: Path) -> None:
    new = ("switch_tiny", "--data", str(text_folder), "--out", "run", *SMALL)
    done = torchrun(tmp_path, *new, "--parallel.expert", "2")
    assert done.returncode == 0, done.stderr
    assert "ranks      2: data 1 x expert 2 x tensor 1" in done.stdout
    assert done.stdout.count("validation loss") == 2  # one rank speaks
    options = ("--resume", "run", "--train.steps", "6", "--parallel.expert", "1")
    more = torchrun(tmp_path, *options, "--parallel.tensor", "2")
    assert more.returncode == 0, more.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]
    assert steps == list(range(1, 7))


@pytest.mark.slow
def test_an_exception_on_one_rank_ends_all_with_a_line_that_names_it(
    tmp_path: Path, text_folder: Path
) -> None:
    (tmp_path / "broken.py").write_text(HOOK)
    options = ("switch_tiny", "--data", str(text_folder), "--out", "run", *SMALL)
    done = torchrun(tmp_path, *options, "--hook", "broken:factory")
    assert done.returncode != 0
    assert "error: rank 0: RuntimeError: the tracker broke" in done.stderr


@pytest.mark.slow
def test_a_layout_that_does_not_fit_is_one_line(tmp_path: Path, text_folder: Path) -> None:
    done = torchrun(tmp_path, "switch_tiny", "--parallel.expert", "4")
    assert done.returncode != 0
    line = "error: parallel.expert = 4: must be one of 1, 2 with 2 ranks; or start 4 of them"
    assert done.stderr.count(line) == 1
