"""metrics.jsonl: one JSON object a line, always written."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, final

from turnout.checkpoint.write import replace_file
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation, Event, LayerReport, StepReport, finite

METRICS = "metrics.jsonl"


@final
class MetricsWriter(Hook):
    """Appends ``kind`` step, evaluation, checkpoint and event records; not finite is null.

    A run that resumes first drops the records behind its checkpoint: what is left is what an
    uninterrupted run has there. Only a rollback makes a step appear again; the later record holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._evaluated = -1

    def on_start(self, start: Start) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: a kill at this moment must not lose the records of days.
        kept = _records_until(self._path, start)
        replace_file(self._path, "".join(kept).encode())
        evaluated = (record for record in map(json.loads, kept) if record["kind"] == "evaluation")
        self._evaluated = max((record["step"] for record in evaluated), default=-1)
        self._file = self._path.open("a", encoding="utf-8")

    def on_step(self, report: StepReport) -> None:
        self._write(
            {
                "kind": "step",
                "step": report.step,
                "loss": finite(report.loss),
                "bits": finite(report.bits),
                "terms": {name: finite(value) for name, value in report.terms.items()},
                "learning_rate": report.learning_rate,
                "gradient_norm": finite(report.gradient_norm),
                "targets": report.targets,
                "tokens": report.tokens,
                "tokens_per_second": round(report.tokens_per_second, 1),
                "layers": {layer.name: _layer(layer) for layer in report.layers},
                "skipped": report.skipped,
                "batch": report.batch,
            }
        )

    def on_evaluate(self, evaluation: Evaluation) -> None:
        if evaluation.step == self._evaluated:
            return  # a finished run that is resumed evaluates again, with the same result
        self._write(
            {
                "kind": "evaluation",
                "step": evaluation.step,
                "loss": finite(evaluation.loss),
                "bits": finite(evaluation.bits),
                "targets": evaluation.targets,
                "bytes": evaluation.bytes,
                "terms": {name: finite(value) for name, value in evaluation.terms.items()},
                "balance": evaluation.balance,
                "dropped": evaluation.dropped,
                "seconds": round(evaluation.seconds, 3),
                "sources": {name: finite(loss) for name, loss in evaluation.sources.items()},
            }
        )

    def on_save(self, step: int, folder: Path) -> None:
        self._write(_checkpoint(step, folder))
        if self._file is not None:
            # What a checkpoint has seen must not be lost with the machine either.
            os.fsync(self._file.fileno())

    def on_event(self, event: Event) -> None:
        self._write({"kind": "event", **asdict(event)})

    def on_end(self, end: End) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()


def _layer(layer: LayerReport) -> dict[str, Any]:
    return {
        "assigned": list(layer.assigned),
        "dropped": layer.dropped,
        "balance": layer.balance,
        "unrouted": layer.unrouted,
        "tokens": layer.tokens,
        "entropy": finite(layer.entropy),
        "log_sum_exp": finite(layer.log_sum_exp),
        "balance_loss": finite(layer.balance_loss),
    }


def _checkpoint(step: int, folder: Path) -> dict[str, Any]:
    return {"kind": "checkpoint", "step": step, "folder": folder.name}


def _records_until(path: Path, start: Start) -> list[str]:
    """The records that a run which goes on from a checkpoint keeps; a new run keeps none."""
    if start.checkpoint is None:
        return []
    saved = json.dumps(_checkpoint(start.step, start.checkpoint)) + "\n"
    kept = _whole_records(path, start.step) if path.is_file() else []
    # A kill may have come between the checkpoint and its record.
    return kept if saved in kept else [*kept, saved]


def _whole_records(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was killed while writing it
    return kept
