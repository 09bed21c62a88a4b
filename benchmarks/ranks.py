"""Times training on two ranks of one thread against one process of two.

    python benchmarks/ranks.py > docs/results/ranks.md

``turnout train switch_mini``, 16,384 tokens a step, started as a user would: one process with two
threads; two ranks that copy all weights (data parallel), that shard them (FSDP), that share out the
experts, and that share out all widths. Each repeat starts all in turn, so that a busy machine slows
them alike; a run's rate is the median of its steps but for the first. Medians of the ratios of one
repeat to the first way, with the least and the largest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

WARM = 2  # steps in which caches and connections are made


@dataclass(frozen=True)
class Way:
    """How the processes are started."""

    ranks: int
    options: tuple[str, ...] = ()


WAYS = {
    "one process, two threads": Way(1),
    "data parallel": Way(2, ("--parallel.fsdp", "1")),
    "FSDP": Way(2),
    "expert parallel, dense copied": Way(2, ("--parallel.expert", "2", "--parallel.fsdp", "1")),
    "expert parallel, dense FSDP": Way(2, ("--parallel.expert", "2")),
    "tensor parallel": Way(2, ("--parallel.tensor", "2")),
}


def rate(way: Way, dtype: str, steps: int, folder: Path) -> float:
    """Tokens a second, the median over steps."""
    command = ["train", "switch_mini", "--out", str(folder), "--train.dtype", dtype]
    command += ["--train.steps", str(steps), "--train.eval-every", str(steps)]
    command += ["--train.eval-rows", "2", "--train.threads", str(2 // way.ranks), *way.options]
    start = [sys.executable, "-m", "turnout"]
    if way.ranks > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(way.ranks), "-m", "turnout"]
    environment = os.environ | {"OMP_NUM_THREADS": str(2 // way.ranks)}
    done = subprocess.run([*start, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return statistics.median(rates[WARM:])


def main() -> None:
    """Prints the page as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    print("# Two ranks against one process\n")
    print(
        f"Tokens a second of `turnout train switch_mini`, 16,384 tokens a step, {options.steps} "
        f"steps, {options.repeats} interleaved repeats; ratios to one process with two threads, "
        f"and of each to data parallel, median with least and largest.\n\n"
        f"Command: `python benchmarks/ranks.py --repeats {options.repeats} --steps "
        f"{options.steps}`; torch {torch.__version__}, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}.\n"
    )
    print("| dtype | way | tokens/s | over one process | over data parallel |\n" + "|---" * 5 + "|")
    for dtype in options.dtypes:
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(options.repeats):
            for name, way in WAYS.items():
                with tempfile.TemporaryDirectory() as folder:
                    found[name].append(rate(way, dtype, options.steps, Path(folder) / "run"))
        for name, rates in found.items():
            cells = [ratios(rates, found[other]) for other in list(WAYS)[:2]]
            print(
                f"| {dtype} | {name} | {statistics.median(rates):,.0f} | {' | '.join(cells)} |",
                flush=True,
            )


def ratios(rates: list[float], others: list[float]) -> str:
    """Of one repeat to the same repeat."""
    found = [a / b for a, b in zip(rates, others, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    main()
