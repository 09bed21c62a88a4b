"""Plain lines for logs and pipes: the header, a line each few seconds, every evaluation."""

import time
from pathlib import Path
from typing import IO, final

from turnout.train.hooks.base import End, Hook, Start
from turnout.train.hooks.figures import Rate, bits_unit, duration, evaluation_line, step_figures
from turnout.train.report import Evaluation, StepReport


@final
class PlainLines(Hook):
    """Writes to ``stream``; ``every`` seconds between lines of steps."""

    def __init__(self, stream: IO[str], every: float = 10.0) -> None:
        self._stream, self._every = stream, every
        self._start: Start | None = None
        self._rate = Rate(0, 1, 0.0)
        self._next = 0.0

    def on_start(self, start: Start) -> None:
        self._start = start
        self._rate = Rate(start.step, start.run.train.steps, time.monotonic())
        for line in start.header:
            self._print(line)

    def on_step(self, report: StepReport) -> None:
        if self._start is None:
            return
        run = self._start.run
        if report.skipped:
            self._print(f"step {report.step} skipped: {report.skipped}")
        now = time.monotonic()
        if now < self._next and report.step < run.train.steps:
            return
        self._next = now + self._every
        left = duration(self._rate.left(report.step, now))
        figures = " | ".join(step_figures(report, bits_unit(run)))
        self._print(f"step {report.step}/{run.train.steps} | {figures} | {left} left")

    def on_evaluate(self, evaluation: Evaluation) -> None:
        if self._start is not None:
            self._print(evaluation_line(evaluation, bits_unit(self._start.run)))

    def on_save(self, step: int, folder: Path) -> None:
        self._print(f"step {step}: saved {folder}")

    def on_end(self, end: End) -> None:
        self._stream.flush()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
