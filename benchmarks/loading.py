"""The share of a training step that goes into its batch.

    OMP_NUM_THREADS=2 python benchmarks/loading.py

``switch_mini`` in both forms, on the standard library: rows are cut, packed, keyed and corrupted in
the training process itself, so what is timed is all that a step waits for.
"""

import statistics
import time

import torch

from turnout.config import presets
from turnout.config.presets.preset import ObjectiveKind
from turnout.train.session import open_session
from turnout.train.step import optimiser_step

STEPS = 9


def measure(objective: ObjectiveKind) -> str:
    """One row of the table: milliseconds of a batch, seconds of a step, their ratio."""
    session = open_session(presets.run("switch_mini", objective))
    batches, steps = [], []
    for index in range(STEPS + 1):
        started = time.perf_counter()
        batch = session.data.micro_batches(index)
        made = time.perf_counter()
        optimiser_step(session.state, session.objective, batch, session.config)
        batches.append(made - started)
        steps.append(time.perf_counter() - made)
    shares = [batch / step for batch, step in zip(batches[1:], steps[1:], strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    return (
        f"| {objective} | {1e3 * statistics.median(batches[1:]):.1f} | "
        f"{statistics.median(steps[1:]):.2f} | {middle:.3%} ({low:.3%} to {high:.3%}) |"
    )


def main() -> None:
    """Prints the table as Markdown."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| switch_mini | batch, ms | step, s | share, median and quartiles |\n|---|---|---|---|")
    for objective in ("causal", "span"):
        print(measure(objective), flush=True)


if __name__ == "__main__":
    main()
