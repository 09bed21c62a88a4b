"""Ranks that are killed under ``torchrun --max-restarts``: the run ends by itself, and as ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from turnout.checkpoint import folders
from turnout.checkpoint.read import load

KILLS = 10
# On the first rank: after steps that are drawn by lot, a kill of a rank that is drawn by lot.
HOOK = """
import os
import random
import signal
from pathlib import Path

from turnout.train.hooks.plain import PlainLines

LOTS = random.Random(0)
MOMENTS = sorted(LOTS.sample(range(1, {steps}), {kills}))
VICTIMS = [LOTS.randrange({size}) for _ in MOMENTS]


def factory(folder):
    def say(line):
        words = line.split("/")[0].split()
        step = int(words[1].rstrip(":")) if words[:1] == ["step"] else 0
        done = len(list(Path(".").glob("killed-*")))
        if done < len(MOMENTS) and step >= MOMENTS[done]:
            Path(f"killed-{{step}}-{{done}}").touch()
            agent = os.getppid()
            children = Path(f"/proc/{{agent}}/task/{{agent}}/children").read_text().split()
            os.kill(sorted(map(int, children))[VICTIMS[done]], signal.SIGKILL)

    return PlainLines(say, every=0.0)
"""
OPTIONS = (
    *("switch_tiny", "--parallel.expert", "2"),
    *("--train.steps", "24", "--train.batch-rows", "4", "--train.eval-every", "24"),
    *("--train.eval-rows", "4", "--train.save-every", "2", "--train.dtype", "float32"),
    *("--model.d-model", "32", "--model.feed-forward.d-ff", "64"),
)


def torchrun(
    folder: Path, text: Path, name: str, *options: str
) -> subprocess.CompletedProcess[str]:
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", str(KILLS), "--monitor-interval", "0.1"),
        *("-m", "turnout", "train", *OPTIONS, "--data", str(text), "--out", name, *options),
    )
    path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_weights_of_a_run_that_was_not(
    tmp_path: Path, text_folder: Path
) -> None:
    (tmp_path / "killer.py").write_text(HOOK.format(steps=24, kills=KILLS, size=2))
    whole = torchrun(tmp_path, text_folder, "whole")
    assert whole.returncode == 0, whole.stderr
    cut = torchrun(tmp_path, text_folder, "cut", "--hook", "killer:factory")
    assert cut.returncode == 0, cut.stderr
    assert len(list(tmp_path.glob("killed-*"))) == KILLS
    assert cut.stderr.count("restarted: going on from") == KILLS
    one, two = (load(folders.latest(tmp_path / name)) for name in ("whole", "cut"))
    assert one.meta["step"] == two.meta["step"] == 24
    assert one.meta["control"] == two.meta["control"]
    wrong = [name for name, t in one.tensors.items() if not torch.equal(t, two.tensors[name])]
    assert wrong == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["cut", "whole"]
