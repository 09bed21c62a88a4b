"""Everything that a report knows of a run, whatever of it is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turnout.checkpoint import folders
from turnout.checkpoint.read import load_meta
from turnout.config import io
from turnout.config.arithmetic import TRAINING, forward_flops
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.probe.report.records import SAMPLES, STARTS, History, json_lines, read_history
from turnout.probe.report.text import line
from turnout.probe.run import Measured, measure, run_of, unit

MOST_SAMPLES = 12


@dataclass(frozen=True)
class Sample:
    """A prompt, and the prompt with what the model made of it."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells it.

    Attributes:
        folder: of the run.
        history: what it recorded while it trained.
        config: resolved; None where neither a checkpoint nor a start says.
        text: SHA-256 of the text it was trained on; empty where no checkpoint says.
        starts: the records of ``starts.jsonl``.
        samples: of ``samples.json``.
        measured: what its newest checkpoint does now; None where that was not asked or failed.
        notices: a sentence for everything that is missing.
    """

    folder: Path
    history: History
    config: RunConfig | None
    text: str
    starts: tuple[Mapping[str, Any], ...]
    samples: tuple[Sample, ...]
    measured: Measured | None
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def unit(self) -> str:
        """What its curve measures."""
        return "bits per byte" if self.config is None else unit(self.config)

    @property
    def step_flops(self) -> float:
        """Arithmetic of a training step: three forward passes over a full batch; 0 if unknown."""
        if self.config is None:
            return 0.0
        return float(TRAINING * forward_flops(self.config.model, self.config.train.batch_rows))


def gather(run_folder: Path) -> Facts:
    """Read what a run folder holds, without computing anything.

    Args:
        run_folder: of a run, or one of its step folders.

    Raises:
        UserError: it has no metrics.
    """
    given = Path(run_folder)
    notices: list[str] = []
    if not given.is_dir():
        raise UserError(f"{given}: no such run folder")
    try:
        checkpoint = folders.latest(given)
    except UserError as error:
        checkpoint, notices = None, [f"There is no checkpoint to read with: {error}."]
    folder = given if checkpoint is None else run_of(checkpoint, given)
    history = read_history(folder)
    starts = tuple(json_lines(folder / STARTS))
    config, text = None, ""
    try:
        meta = {} if checkpoint is None else load_meta(checkpoint)
        text = str(meta.get("text") or "")
        saved = meta.get("config") or (starts[-1].get("config") if starts else None)
        if isinstance(saved, dict):
            config = io.from_dict(RunConfig, saved)
    except UserError as error:
        notices.append(f"The configuration cannot be read: {error}.")
    return Facts(folder, history, config, text, starts, read_samples(folder), None, tuple(notices))


def measured_facts(
    facts: Facts, measured: Measured | None, bits: Mapping[str, float] | None
) -> Facts:
    """The same with what the checkpoint does with held-out text, or a notice why not."""
    if measured is not None:
        return replace(facts, config=measured.config, measured=measured)
    if facts.config is None or facts.notices:
        return facts
    try:
        found = measure(facts.folder, bits)
    except (UserError, OSError) as error:
        return replace(facts, notices=(f"Held-out text was not read: {line(str(error), 400)}.",))
    return replace(facts, config=found.config, measured=found)


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """The samples in a run folder; what is no sample is left out."""
    path = folder / SAMPLES
    if not path.is_file():
        return ()
    try:
        records = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return ()
    found = (
        [record for record in records if isinstance(record, dict)]
        if isinstance(records, list)
        else []
    )
    return tuple(
        Sample(str(record.get("prompt", "")), str(record.get("text", "")))
        for record in found[:MOST_SAMPLES]
    )
