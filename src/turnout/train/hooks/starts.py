"""starts.jsonl: where, when and with what a run was started and resumed, a line each time."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, final

from turnout.config import io
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.machine import machine, versions
from turnout.train.report import Evaluation, Event, StepReport

STARTS: Final = "starts.jsonl"


@final
class StartsWriter(Hook):
    """Appends one record when a run starts; a report reads them, and nothing else does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STARTS

    def on_start(self, start: Start) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if start.step == 0:
            self._path.unlink(missing_ok=True)
        record = {
            "step": start.step,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": io.to_dict(start.run),
            "header": list(start.header),
            "versions": versions(),
            "machine": machine(),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def on_step(self, report: StepReport) -> None:
        """Nothing is recorded of steps here."""

    def on_evaluate(self, evaluation: Evaluation) -> None:
        """Nothing is recorded of evaluations here."""

    def on_save(self, step: int, folder: Path) -> None:
        """Nothing is recorded of checkpoints here."""

    def on_event(self, event: Event) -> None:
        """Nothing is recorded of events here."""

    def on_end(self, end: End) -> None:
        """Nothing is left open."""
