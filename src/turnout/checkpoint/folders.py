"""The folders of a run: one for each saved step, the newest complete one, and the pruned rest."""

import re
import shutil
from pathlib import Path

from turnout.checkpoint.index import INDEX, CheckpointError

CHECKPOINTS = "checkpoints"  # in a run's folder
_STEP = re.compile(r"step-(\d{8,})")


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimiser steps lies."""
    return Path(run) / CHECKPOINTS / f"step-{step:08d}"


def saved_steps(run: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run, oldest first; a folder without an index is none."""
    found = []
    for folder in (Path(run) / CHECKPOINTS).glob("step-*"):
        name = _STEP.fullmatch(folder.name)
        if name and (folder / INDEX).is_file():
            found.append((int(name.group(1)), folder))
    return sorted(found)


def latest(run: Path | str) -> Path:
    """The newest complete checkpoint of a run folder, or ``run`` itself when it is one.

    Raises:
        CheckpointError: there is none.
    """
    run = Path(run)
    if (run / INDEX).is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run folder")
    steps = saved_steps(run)
    if not steps:
        raise CheckpointError(f"{run} holds no complete checkpoint")
    return steps[-1][1]


def clear(folder: Path) -> None:
    """Remove what an interrupted save left behind; a complete checkpoint is not touched."""
    if folder.is_dir() and not (folder / INDEX).exists():
        shutil.rmtree(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint; its index goes first, so that an interrupted removal leaves none."""
    (folder / INDEX).unlink(missing_ok=True)
    shutil.rmtree(folder)


def prune(run: Path, keep: int, also: int | None = None) -> list[Path]:
    """Delete all but the newest ``keep`` checkpoints and that of the step ``also``.

    Returns:
        What was deleted.
    """
    old = [folder for step, folder in saved_steps(run)[:-keep] if step != also]
    for folder in old:
        remove(folder)
    return old
