"""The pages on other trainers: two processes end with the weights of one, written out once more."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.docs.test_documents import ROOT, blocks
from turnout import router_losses

STEPS = 3
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def page(name: str) -> str:
    (code,) = blocks(ROOT / "docs" / "howto" / f"{name}.md", "python")
    return code


def module(name: str) -> ModuleType:
    """The page's definitions, with nothing run."""
    made = ModuleType(f"page_{name}")
    exec(compile(page(name), f"{name}.md", "exec"), made.__dict__)
    return made


def batches(name: str, made: ModuleType) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The rows of each step, all of them: ids, mask and targets."""
    if name == "ddp":
        return [made.batch(step) for step in range(STEPS)]
    rows = made.Rows(STEPS)
    return [
        tuple(
            torch.stack([rows[made.ROWS * step + row][part] for row in range(made.ROWS)])
            for part in ("ids", "mask", "targets")
        )
        for step in range(STEPS)
    ]


def alone(name: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights after a plain loop in this process, and the loads [G, E] of its steps."""
    made = module(name)
    torch.manual_seed(0)
    model = made.Model(made.Rows(STEPS)) if name == "lightning" else made.Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loads = []
    for ids, mask, targets in batches(name, made):
        logits, stats = model(ids, mask)
        loss = F.cross_entropy(logits[mask], targets[mask]) + router_losses(stats)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loads.append(stats.kept)
    return model.state_dict(), loads


@pytest.mark.parametrize(
    "name",
    [
        "ddp",
        pytest.param("accelerate", marks=pytest.mark.slow),
        pytest.param("lightning", marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_with_the_weights_of_one(name: str, tmp_path: Path) -> None:
    expected, loads = alone(name)
    # A rank has every second row; some expert has no token there, and tokens on the other.
    assert any(
        ((load[rank::2].sum(0) == 0) & (load[1 - rank :: 2].sum(0) > 0)).any()
        for load in loads
        for rank in (0, 1)
    )
    (tmp_path / "train.py").write_text(page(name))
    (line,) = blocks(ROOT / "docs" / "howto" / f"{name}.md", "sh")
    known = {"torchrun --nproc-per-node 2 train.py": TORCHRUN, "python train.py": []}
    ended = subprocess.run(
        [sys.executable, *known[line.strip()], "train.py"],
        cwd=tmp_path,
        env={**os.environ, "STEPS": str(STEPS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = value.abs().max()
        assert (found[key] - value).abs().max() <= 1e-5 * scale, key
    if name != "lightning":
        assert len(re.findall(r"step \d  loss \d\.\d{4}", ended.stdout)) == STEPS
