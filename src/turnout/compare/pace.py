"""How long the rest of a comparison takes, from what its runs have taken so far."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from turnout.compare.track import Outcome
from turnout.config.arms import Arm, PlannedRun


@dataclass
class _Live:
    """A run at work: when it started, the step it began with, and the step it is at."""

    started: float
    first: int = -1
    last: int = 0


@dataclass
class Pace:
    """Counts runs and steps.

    A step of an arm that has run takes what it took; one of an arm that has not yet, what its
    arithmetic would take at the mean speed of those that have.

    Attributes:
        total: runs of the comparison.
        steps_left: by arm, those of the run at work included.
        cost: arithmetic of a step, by arm.
        jobs: runs at once.
        seconds: a step's, start-up and evaluations included, by arm that has run.
    """

    total: int
    steps_left: dict[str, int]
    cost: dict[str, float]
    jobs: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _live: dict[str, _Live] = field(default_factory=dict)

    @staticmethod
    def of(planned: Sequence[tuple[Arm, int]], jobs: int = 1) -> "Pace":
        """From the arm and the steps of every run to come."""
        left: dict[str, int] = {}
        for arm, steps in planned:
            left[arm.name] = left.get(arm.name, 0) + steps
        cost = {arm.name: float(arm.step_flops) for arm, _ in planned}
        return Pace(len(planned), left, cost, jobs)

    def number(self, planned: PlannedRun) -> int:
        """Which run of the comparison this is, from 1."""
        return self._numbers.setdefault(planned.name, len(self._numbers) + 1)

    def begin(self, planned: PlannedRun, now: float | None = None) -> None:
        """A run starts."""
        self._live[planned.name] = _Live(time.monotonic() if now is None else now)

    def step(self, planned: PlannedRun, step: int, now: float | None = None) -> None:
        """A run is at ``step``; the first call says where it began."""
        now = time.monotonic() if now is None else now
        name, live = planned.arm.name, self._live[planned.name]
        if live.first < 0:
            live.first = step
        if step > live.first:
            self.seconds[name] = (now - live.started) / (step - live.first)
        self.steps_left[name] -= step - live.last
        live.last = step

    def finish(self, planned: PlannedRun, outcome: Outcome) -> None:
        """A run is over, now or in an earlier call."""
        name = planned.arm.name
        self.number(planned)
        live = self._live.pop(planned.name, None)
        self.steps_left[name] -= planned.steps - (0 if live is None else live.last)
        if outcome.step > outcome.first_step:
            self.seconds[name] = outcome.seconds / (outcome.step - outcome.first_step)

    def left(self) -> float | None:
        """Seconds until everything is done; None before the first step."""
        if not self.seconds:
            return None
        speed = sum(self.seconds.values()) / sum(self.cost[name] for name in self.seconds)
        total = sum(
            steps * self.seconds.get(name, self.cost[name] * speed)
            for name, steps in self.steps_left.items()
        )
        return total / self.jobs
