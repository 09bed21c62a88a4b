"""What a dense student keeps of a sparse teacher's gain, at `switch_tiny`.

    python -m experiments.distillation runs/distillation > docs/results/distillation.md

For every seed: the teacher (8 experts), the dense twin, and three students of the twin's form:
the teacher's weights that are no experts' and the mixed loss; the mixed loss alone; those weights
alone, which is the control. A second control says what the steps behind those weights are worth:
the twin that goes on from its own. Every run takes the same steps on the same text. Three seeds,
stated before.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from experiments.cells import Cell, Result, machine, run
from turnout.config import io
from turnout.config.distillation import DistillationConfig
from turnout.config.presets import dense_twin
from turnout.config.presets import run as preset
from turnout.config.start import StartConfig
from turnout.config.train import RunConfig
from turnout.convert.api import load
from turnout.data import pipeline
from turnout.finetune.gain import Kept, RowLoss, gain_kept, row_loss

PRESET, SEEDS, STEPS, ROWS = "switch_tiny", (1, 2, 3), 800, 8
TEACHER, DENSE = "teacher", "dense"
STUDENTS = (
    "initialisation and loss",
    "loss only",
    "control (initialisation)",
    "control (dense goes on)",
)
# 2101.03961, tables 6 and 7; the control: (-1.639 + 1.636) / (-1.444 + 1.636).
PAPER = dict(zip(STUDENTS, ("29% (27 to 37% over teachers)", "3%", "-2%", ""), strict=True))


def base() -> RunConfig:
    """The teacher's run."""
    config = preset(PRESET, "causal")
    train = replace(
        config.train, steps=STEPS, batch_rows=ROWS, eval_every=STEPS // 2, save_every=STEPS
    )
    return replace(config, train=train)


def configs(folder: Path, seed: int) -> dict[str, RunConfig]:
    """All arms of a seed; students come after the teacher and the twin."""
    teacher, twin = (str(folder / Cell(arm, seed, ()).name) for arm in (TEACHER, DENSE))
    sparse, dense = base(), dense_twin(base())
    shared, taught = StartConfig(teacher, "shared"), DistillationConfig(teacher)
    both, loss, control, longer = STUDENTS
    return {
        TEACHER: sparse,
        DENSE: dense,
        both: replace(dense, start=shared, distillation=taught),
        loss: replace(dense, distillation=taught),
        control: replace(dense, start=shared),
        longer: replace(dense, start=StartConfig(twin)),
    }


def cell(arm: str, seed: int, folder: Path, config: RunConfig) -> Cell:
    """With its configuration in a file."""
    found = Cell(arm, seed, ())
    path = folder / "configs" / f"{found.name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(io.dump_toml(config), encoding="utf-8")
    return Cell(arm, seed, ("--config", str(path), "--train.seed", str(seed)))


def kept(folder: Path, seed: int) -> dict[str, Kept]:
    """The shares of one seed's students, on all held-out rows of the runs."""
    batches = pipeline.build(base()).validation()

    def losses(arm: str) -> RowLoss:
        return row_loss(load(folder / Cell(arm, seed, ()).name), batches)

    return gain_kept(losses(TEACHER), losses(DENSE), {arm: losses(arm) for arm in STUDENTS})


def main(folder: Path, jobs: int, minutes: float) -> str:
    """The page, after running what is missing for at most that long."""
    until = time.time() + 60 * minutes
    every = {seed: configs(folder, seed) for seed in SEEDS}
    results: dict[Cell, Result] = {}
    for arms in ((TEACHER, DENSE), STUDENTS):
        table = [cell(arm, seed, folder, every[seed][arm]) for seed in SEEDS for arm in arms]
        results |= run(table, PRESET, folder, jobs, until)
    found = {(each.arm, each.seed): result.loss for each, result in results.items()}
    whole = [s for s in SEEDS if all((arm, s) in found for arm in every[s])]
    shares = {seed: kept(folder, seed) for seed in whole}
    return "\n".join(page(found, shares, whole, jobs))


def page(
    found: Mapping[tuple[str, int], float],
    shares: Mapping[int, Mapping[str, Kept]],
    whole: Sequence[int],
    jobs: int,
) -> list[str]:
    """Markdown."""
    gains = [found[DENSE, seed] - found[TEACHER, seed] for seed in whole]
    error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    header = "| model | " + " | ".join(f"seed {seed}" for seed in whole) + " | kept | Switch, T6 |"
    lines = [
        "# Distillation: what a dense student keeps of a sparse teacher's gain",
        "",
        f"Command: `python -m experiments.distillation FOLDER {jobs}`; {PRESET}, {STEPS} steps of "
        f"{ROWS} rows, Python's library; {len(whole)} of {len(SEEDS)} seeds.",
        machine(),
        "",
        f"The teacher gains {fmean(gains):.4f} nats a byte over the dense twin, standard error "
        f"{error:.4f} over seeds: {fmean(gains) / error:.1f} standard errors."
        if whole
        else "Nothing is done yet.",
        "",
        "Held-out nats a byte by seed; in brackets the share of the gain that is kept, with a 95% "
        "bootstrap interval over held-out rows; `kept` is the mean over seeds, least and largest.",
        "",
        header,
        "|---" * (len(whole) + 3) + "|",
    ]
    for arm in (TEACHER, DENSE):
        row = " | ".join(f"{found[arm, seed]:.4f}" for seed in whole)
        lines.append(f"| {arm} | {row} | {'100%' if arm == TEACHER else '0%'} | |")
    for arm in STUDENTS if whole else ():
        each = [shares[seed][arm] for seed in whole]
        row = " | ".join(f"{k.loss:.4f} ({k.share:.0%}, {k.low:.0%} to {k.high:.0%})" for k in each)
        values = [k.share for k in each]
        mean = f"{fmean(values):.0%} ({min(values):.0%} to {max(values):.0%})"
        lines.append(f"| {arm} | {row} | {mean} | {PAPER[arm]} |")
    return lines


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2, float("inf")))
