"""torch.compile cannot trace the run-time shape checks that all other tests run under, so the
tests of tests/compiled run in a process of their own without them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow)], ids=["fast", "slow"]
)
def test_everything_that_compiles(tier):
    command = [sys.executable, "-m", "pytest", "tests/compiled", "-o", "addopts=", "-q", "-m", tier]
    found = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert " passed" in found.stdout
