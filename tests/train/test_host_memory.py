"""Whether the C library keeps what is freed; in processes of their own, since it holds for all."""

import subprocess
import sys

SCRIPT = """
import random
import resource
import torch
from turnout.train.host_memory import keep_freed_memory

assert {keep}
sizes = random.Random(0)
counts = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step = [torch.ones((1 << 22) + sizes.randrange(1 << 20)) for _ in range(4)]
    step = [tensor * 2 for tensor in step]
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(counts[20:]))
"""


def faults(keep: str) -> int:
    """Pages that 20 steps, behind 20 others, ask the system for: 8 tensors of about 16 MiB each."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_step_finds_the_pages_of_the_one_before():
    # Anew they are 20 x 8 x 16 MiB = 2.5 GiB: 655,360 pages of 4 KiB, or 1,280 of 2 MiB.
    assert 10 * faults("keep_freed_memory()") < faults("True")


def test_another_c_library_is_left_alone(monkeypatch):
    import ctypes

    from turnout.train.host_memory import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
