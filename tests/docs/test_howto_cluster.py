"""The page on clusters: each command runs on a small model, Slurm's by a stand-in for ``srun``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_documents import ROOT, SMALL, blocks

PAGE = ROOT / "docs" / "howto" / "cluster.md"
OPTIONS = {**SMALL, "train.batch_rows": "8"}
SRUN = """#!/bin/bash
"$@" & first=$!
"$@" && wait $first
"""


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment whose ``turnout``, ``torchrun`` and Slurm are of this process's Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    small = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in OPTIONS.items())
    scripts = {
        "turnout": f'#!/bin/bash\nexec {sys.executable} -m turnout "$@"\n',
        "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
        "srun": SRUN,
        "scontrol": "#!/bin/bash\necho localhost\n",
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    path = f"{folder}:{os.environ['PATH']}"
    inherited = f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": inherited, "SMALL": small}
    return {**os.environ, **slurm, **threads, "PATH": path}


def shrunk(script: str, notes: str) -> str:
    """The commands with the options of a small run; a run that goes on has them already."""
    return re.sub(r"(train switch_mini)", rf"\1 $SMALL --data {notes}", script)


@pytest.mark.slow
def test_every_command(tmp_path: Path, tools: dict[str, str]) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(12):
        text = "\n".join(f"On day {day} I wrote {day * number} words." for day in range(60))
        (notes / f"{number:02d}.txt").write_text(text)
    scripts = blocks(PAGE, "bash")
    assert len(scripts) == 7
    for script in scripts:
        several = "--nnodes 2 " in script
        line = f"{script.strip()} & {script.strip()}; wait" if several else script
        done = subprocess.run(
            ["bash", "-e", "-c", shrunk(line, str(notes))],
            cwd=tmp_path,
            env=tools,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    for name in ("mini", "two", "four", "machines", "slurm"):
        last = 6 if name in ("mini", "two") else 3
        assert (tmp_path / "runs" / name / "checkpoints" / f"step-{last:08d}").is_dir(), name
