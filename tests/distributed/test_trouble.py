"""Real processes under torchrun, one of which is harmed: all leave, or go on; one line says who.

The harm is that of benchmarks/trouble.py, which times it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "trouble.py"
FORCED = "forcefully"  # torchrun's word where a process did not end within 30 s


def befall(folder: Path, event: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """A run of which the last rank is harmed."""
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), str(SCRIPT), "--as-rank", event),
        *("--victim", str(ranks - 1), "--folder", str(folder)),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def lines(done: subprocess.CompletedProcess[str], *begins: str) -> list[str]:
    """What was said that begins so."""
    return [line for line in done.stderr.splitlines() if line.startswith(begins)]


BROKE = "rank 0 leaves: the connection to another rank broke"
PLANTED = "RuntimeError: a planted defect"
KEPT = "; the run is kept up to step "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "error", "other"),
    [
        ("an exception in the forward pass", f"error: rank 1: {PLANTED}", BROKE),
        (
            "an exception while the others wait in a save",
            f"error: rank 1: {PLANTED}",
            f"rank 0 leaves: rank 1 has left: {PLANTED}",
        ),
        ("text that cannot be read", f"error: rank 1: Input/output error: a disk{KEPT}4", ""),
        ("a full disk", f"error: rank 1: No space left on device: a disk{KEPT}0", ""),
        (
            "a full disk, saving in the background",
            f"error: rank 1: No space left on device: a disk{KEPT}0",
            "",
        ),
    ],
)
def test_all_leave_with_one_line_that_names_the_rank(
    tmp_path: Path, event: str, error: str, other: str
) -> None:
    done = befall(tmp_path, event)
    assert done.returncode != 0 and FORCED not in done.stderr
    (line,) = lines(done, "error:")
    assert line.startswith(error)
    # torchrun may end the other rank before it has said that it leaves.
    assert lines(done, "rank 0 leaves") in ([], [other])
    assert "step 12:" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_signal_to_one_rank_has_all_save_and_leave(tmp_path: Path, ranks: int) -> None:
    done = befall(tmp_path, "SIGTERM", ranks)
    assert done.returncode != 0 and FORCED not in done.stderr
    assert f"step 6: interrupt: SIGTERM (to rank {ranks - 1}); the state is saved" in done.stdout
    checkpoint = folders.latest(tmp_path / "run")
    assert load_meta(checkpoint)["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_skip_the_step_of_a_rank_with_nan(tmp_path: Path, ranks: int) -> None:
    done = befall(tmp_path, "NaN in a gradient", ranks)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if ": skip: " in line]
    assert line.startswith(f"step 6: skip: rank {ranks - 1}: the gradient of ")
    seen = map(json.loads, (tmp_path / "steps").read_text().splitlines())
    assert sorted((step, rank) for rank, step, _ in seen) == [
        (step, rank) for step in range(1, 13) for rank in range(ranks)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "event", ["SIGKILL in a step", "SIGKILL in a save", "SIGKILL in a save in the background"]
)
def test_nobody_waits_for_a_rank_that_was_killed(tmp_path: Path, event: str) -> None:
    done = befall(tmp_path, event)
    assert done.returncode != 0 and FORCED not in done.stderr
    assert len(lines(done, "rank 0 leaves")) == 1
    # torchrun's own line: the others leave a moment later than the one that was killed.
    assert "failed (exitcode: -9) local_rank: 1 " in done.stderr
    assert folders.latest(tmp_path / "run").name.startswith("step-")
