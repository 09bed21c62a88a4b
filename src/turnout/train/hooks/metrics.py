"""metrics.jsonl: one JSON object a line, always written."""

import json
from pathlib import Path
from typing import IO, Any, final

from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation, LayerReport, StepReport, finite


@final
class MetricsWriter(Hook):
    """Appends ``kind`` step, evaluation and checkpoint records; a number not finite is null.

    A run that resumes first drops the records behind its checkpoint, so that a step is there once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def on_start(self, start: Start) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = _records_until(self._path, start.step)
        self._file = self._path.open("w", encoding="utf-8")
        self._file.writelines(kept)

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
            }
        )

    def on_evaluate(self, evaluation: Evaluation) -> None:
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
        self._write({"kind": "checkpoint", "step": step, "folder": folder.name})

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
    }


def _records_until(path: Path, step: int) -> list[str]:
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was killed while writing it
    return kept if step else []
