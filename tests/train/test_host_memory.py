"""Whether the C library keeps what is freed; in processes of their own, since it holds for all."""

import subprocess
import sys

SCRIPT = """
import random
import resource
import torch
from turnout.train.host_memory import keep_freed_memory

assert {keep}
draw = random.Random(0)
sizes = [(1 << 24) + draw.randrange(1 << 20) for _ in range(4)]
counts = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step = [torch.ones(size) for size in sizes]
    step = [tensor * 2 for tensor in step]
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(counts[20:]))
"""


def faults(keep: str) -> int:
    """Pages that 20 steps, behind 20 others, ask the system for: 8 tensors of about 64 MiB each."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_step_finds_the_pages_of_the_one_before():
    # Anew they are 20 x 8 x 64 MiB = 10 GiB: 2,621,440 pages of 4 KiB. One tensor more, where the
    # kept ones do not fit together, is 16,384.
    assert 20 * faults("keep_freed_memory()") < faults("True")


LARGE = """
import ctypes
from pathlib import Path
from turnout.train.host_memory import keep_freed_memory

def size():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmSize"))

assert keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
taken = [library.malloc(1 << 29) for _ in range(6)]
assert all(taken)
most = size()
for each in taken:
    library.free(each)
print(most - size())
"""


def test_more_than_two_gigabytes_are_kept_too():
    """Six times 512 MiB, which nobody writes to: addresses alone."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_another_c_library_is_left_alone(monkeypatch):
    import ctypes

    from turnout.train.host_memory import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
