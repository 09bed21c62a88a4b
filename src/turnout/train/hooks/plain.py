"""Plain lines for logs and pipes: the header, a line each few seconds, every evaluation."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import final

from turnout.train.hooks.base import End, Hook, Start
from turnout.train.hooks.figures import (
    Rate,
    bits_unit,
    duration,
    evaluation_line,
    event_line,
    step_figures,
)
from turnout.train.report import Evaluation, Event, StepReport


@final
class PlainLines(Hook):
    """Hands lines to ``say``; ``every`` seconds between lines of steps."""

    def __init__(self, say: Callable[[str], None], every: float = 10.0) -> None:
        self._say, self._every = say, every
        self._start: Start | None = None
        self._rate = Rate(0, 1, 0.0)
        self._next = 0.0

    def on_start(self, start: Start) -> None:
        self._start = start
        self._rate = Rate(start.step, start.run.train.steps, time.monotonic())
        for line in start.header:
            self._say(line)

    def on_step(self, report: StepReport) -> None:
        if self._start is None:
            return
        run = self._start.run
        now = time.monotonic()
        if now < self._next and report.step < run.train.steps:
            return
        self._next = now + self._every
        left = duration(self._rate.left(report.step, now))
        figures = " | ".join(step_figures(report, bits_unit(run)))
        self._say(f"step {report.step}/{run.train.steps} | {figures} | {left} left")

    def on_evaluate(self, evaluation: Evaluation) -> None:
        if self._start is not None:
            self._say(evaluation_line(evaluation, bits_unit(self._start.run)))

    def on_save(self, step: int, folder: Path) -> None:
        self._say(f"step {step}: saved {folder}")

    def on_event(self, event: Event) -> None:
        self._say(event_line(event))

    def on_end(self, end: End) -> None:
        """Nothing is left open."""
