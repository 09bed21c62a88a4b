"""The example runs, learns, balances, and is what the README shows."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PATH = ROOT / "examples" / "drop_in.py"


@pytest.fixture(scope="module")
def drop_in():
    spec = importlib.util.spec_from_file_location("drop_in", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_goes_down(drop_in):
    losses = drop_in.train(steps=120)
    # At the start the guess is uniform over 16 letters: ln 16 = 2.773 nats, give or take.
    assert losses[0] == pytest.approx(math.log(16), abs=0.5)
    assert sum(losses[-10:]) / 10 < 0.7 * math.log(16)


def test_router_losses_reach_the_router(drop_in):
    torch.manual_seed(0)
    model = drop_in.Decipher()
    ids, mask, _ = drop_in.make_batch(8, torch.Generator().manual_seed(0))
    _, stats = model(ids, mask)
    (gradient,) = torch.autograd.grad(
        drop_in.router_losses(stats), [model.block.moe.router.weight], retain_graph=False
    )
    assert gradient.abs().max() > 0


def test_padding_changes_nothing(drop_in):
    torch.manual_seed(0)
    model = drop_in.Decipher()
    ids, mask, _ = drop_in.make_batch(8, torch.Generator().manual_seed(0))
    logits, stats = model(ids, mask)
    other = torch.where(mask, ids, 7)
    padded, padded_stats = model(other, mask)
    torch.testing.assert_close(padded[mask], logits[mask])
    assert torch.equal(padded_stats.kept, stats.kept)
    assert int(stats.kept.sum()) == int(mask.sum())


def test_it_runs_as_a_script():
    done = subprocess.run([sys.executable, str(PATH)], capture_output=True, text=True, check=True)
    assert "guessing is ln 16" in done.stdout


def test_the_readme_shows_this_code():
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = PATH.read_text()
    assert shown
    for block in shown:
        for part in block.strip("\n").split("\n\n"):
            assert part in source
