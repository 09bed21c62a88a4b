"""The live display of a terminal: a bar, the figures of the last step, evaluations above it."""

import time
from pathlib import Path
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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

_REFRESH = 0.25


@final
class LiveDisplay(Hook):
    """Draws at most four times a second, from the training thread alone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._start: Start | None = None
        self._rate = Rate(0, 1, 0.0)
        self._next = 0.0

    def on_start(self, start: Start) -> None:
        self._start = start
        for line in start.header:
            self._console.print(line, markup=False, highlight=False)
        self._rate = Rate(start.step, start.run.train.steps, time.monotonic())
        self._live.start()

    def on_step(self, report: StepReport) -> None:
        if self._start is None:
            return
        now = time.monotonic()
        steps = self._start.run.train.steps
        if now < self._next and report.step < steps:
            return
        self._next = now + _REFRESH
        self._live.update(self._picture(report, steps, now), refresh=True)

    def on_evaluate(self, evaluation: Evaluation) -> None:
        if self._start is not None:
            self._say(evaluation_line(evaluation, bits_unit(self._start.run)))

    def on_save(self, step: int, folder: Path) -> None:
        self._say(f"step {step}: saved {folder}")

    def on_event(self, event: Event) -> None:
        self._say(event_line(event))

    def on_end(self, end: End) -> None:
        self._live.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def _picture(self, report: StepReport, steps: int, now: float) -> Group:
        unit = bits_unit(self._start.run) if self._start else ""
        bar = Table.grid(padding=(0, 2))
        left = duration(self._rate.left(report.step, now))
        bar.add_row(
            ProgressBar(total=steps, completed=report.step, width=40),
            Text(f"{report.step}/{steps} steps"),
            Text(f"{left} left", style="bold"),
        )
        grid = Table.grid(padding=(0, 3))
        grid.add_row(*(Text(figure) for figure in step_figures(report, unit)))
        return Group(bar, grid)
