"""Upcycling against going on dense, and against a sparse model from scratch.

    python -m experiments.upcycling runs/upcycling > docs/results/upcycling.md

A dense `switch_tiny` is trained; then, for the same further steps: the dense model goes on; its
upcycled form (8 copies, 2 a token, function preserved) goes on; a sparse model of that form begins
from scratch, for those steps and for all of them. The rate is constant behind its warm-up, and
every optimiser begins anew, so that no arm is in another part of a schedule. A token passes two
experts, so that a sparse step has more arithmetic than a dense one: the table says how much. One
seed, stated before.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from experiments.cells import Cell, machine, run
from turnout.config import io
from turnout.config.arithmetic import forward_flops
from turnout.config.presets import run as preset
from turnout.config.schedules import Constant
from turnout.config.start import StartConfig
from turnout.config.train import RunConfig
from turnout.train.session import saved_config

PRESET, BEFORE, AFTER, ROWS, SEED = "switch_tiny", 600, 300, 8, 1
EXPERTS, K = 8, 2


def config(base: RunConfig, steps: int, start: str = "") -> RunConfig:
    """A run of that length, with every evaluation at a tenth of ``AFTER``."""
    train = replace(
        base.train, steps=steps, batch_rows=ROWS, eval_every=AFTER // 10, save_every=steps
    )
    return replace(base, schedule=Constant(warmup=20), train=train, start=StartConfig(start))


def upcycled(folder: Path, dense: Path) -> Path:
    """The dense run's sparse form, and its receipt."""
    target = folder / "form"
    if not (target / "receipt.json").is_file():
        words = (
            "upcycle",
            str(dense),
            "--out",
            str(target),
            "--experts",
            str(EXPERTS),
            "--k",
            str(K),
        )
        subprocess.run(
            [sys.executable, "-m", "turnout", "surgery", *words], check=True, stdout=sys.stderr
        )
    return target


def cell(name: str, folder: Path, made: RunConfig) -> Cell:
    """A cell whose configuration is in a file."""
    path = folder / f"{name.replace(' ', '-')}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(io.dump_toml(made), encoding="utf-8")
    return Cell(name, SEED, ("--config", str(path), "--train.seed", str(SEED)))


def main(folder: Path, jobs: int) -> str:
    """The page, after training what is missing."""
    dense = config(preset(PRESET, "causal", dense=True), BEFORE)
    first = cell("dense", folder, dense)
    losses = {name.arm: r.loss for name, r in run([first], PRESET, folder, 1).items()}
    place = folder / first.name
    form = upcycled(folder, place)
    sparse = saved_config(form)
    arms: Mapping[str, RunConfig] = {
        "dense goes on": config(dense, AFTER, str(place)),
        "upcycled": config(sparse, AFTER, str(form)),
        "sparse from scratch": config(sparse, AFTER),
        "sparse from scratch, all steps": config(sparse, BEFORE + AFTER),
    }
    table = [cell(name, folder, made) for name, made in arms.items()]
    found = run(table, PRESET, folder, jobs)
    losses |= {each.arm: result.loss for each, result in found.items()}
    cost = forward_flops(sparse.model, 1) / forward_flops(dense.model, 1)
    rows = {"dense": (BEFORE, 0)} | {
        "dense goes on": (BEFORE, AFTER),
        "upcycled": (BEFORE, AFTER),
        "sparse from scratch": (0, AFTER),
        "sparse from scratch, all steps": (0, BEFORE + AFTER),
    }
    lines = [
        "# Upcycling a dense model",
        "",
        f"Command: `python -m experiments.upcycling FOLDER {jobs}`; {BEFORE} and {AFTER} steps of "
        f"{ROWS} rows of 512 bytes. {machine()}.",
        "",
        (__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip(),
        "",
        f"A sparse step has {cost:.2f} times the arithmetic of a dense one.",
        "",
        "| model | dense steps | further steps | held-out nats a byte |",
        "|---|---|---|---|",
    ]
    for name, (dense_steps, further) in rows.items():
        lines.append(
            f"| {name} | {dense_steps} | {further} | {losses.get(name, float('nan')):.4f} |"
        )
    receipt = (form / "receipt.json").read_text().strip().replace(str(folder), "FOLDER")
    return "\n".join([*lines, "", "The receipt of the surgery:", "", "```json", receipt, "```"])


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2))
