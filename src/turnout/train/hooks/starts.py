"""starts.jsonl: where, when and with what a run was started and resumed, a line each time."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, final

import torch

from turnout.config import io
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation, Event, StepReport

STARTS: Final = "starts.jsonl"
PACKAGES: Final = ("turnout", "torch", "numpy", "safetensors", "jaxtyping")


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


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def machine() -> dict[str, Any]:
    """What computes: system, processor, cores, threads, accelerators; no name or address."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(count)],
    }


def _processor() -> str:
    """The processor's model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
