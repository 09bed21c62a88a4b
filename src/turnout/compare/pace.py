"""How long the rest of a comparison takes, from what its runs have taken so far."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from turnout.compare.track import Outcome
from turnout.config.arms import Arm, PlannedRun


@dataclass
class Pace:
    """Counts runs and steps.

    A step of an arm that has run takes what it took; one of an arm that has not yet, what its
    arithmetic would take at the mean speed of those that have.

    Attributes:
        total: runs of the comparison.
        steps_left: by arm, those of the run at work included.
        cost: arithmetic of a step, by arm.
        seconds: a step's, start-up and evaluations included, by arm that has run.
    """

    total: int
    steps_left: dict[str, int]
    cost: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _started: float = 0.0
    _first: int = -1
    _last: int = 0

    @staticmethod
    def of(planned: Sequence[tuple[Arm, int]]) -> "Pace":
        """From the arm and the steps of every run to come."""
        left: dict[str, int] = {}
        for arm, steps in planned:
            left[arm.name] = left.get(arm.name, 0) + steps
        return Pace(len(planned), left, {arm.name: float(arm.step_flops) for arm, _ in planned})

    def number(self, planned: PlannedRun) -> int:
        """Which run of the comparison this is, from 1."""
        return self._numbers.setdefault(planned.name, len(self._numbers) + 1)

    def begin(self, planned: PlannedRun, now: float | None = None) -> None:
        """A run starts."""
        self._started = time.monotonic() if now is None else now
        self._first, self._last = -1, 0

    def step(self, planned: PlannedRun, step: int, now: float | None = None) -> None:
        """A run is at ``step``; the first call says where it began."""
        now = time.monotonic() if now is None else now
        name = planned.arm.name
        if self._first < 0:
            self._first = step
        if step > self._first:
            self.seconds[name] = (now - self._started) / (step - self._first)
        self.steps_left[name] -= step - self._last
        self._last = step

    def finish(self, planned: PlannedRun, outcome: Outcome) -> None:
        """A run is over, now or in an earlier call."""
        name = planned.arm.name
        self.number(planned)
        self.steps_left[name] -= planned.steps - self._last
        self._last = 0
        if outcome.step > outcome.first_step:
            self.seconds[name] = outcome.seconds / (outcome.step - outcome.first_step)

    def left(self) -> float | None:
        """Seconds until everything is done; None before the first step."""
        if not self.seconds:
            return None
        speed = sum(self.seconds.values()) / sum(self.cost[name] for name in self.seconds)
        return sum(
            steps * self.seconds.get(name, self.cost[name] * speed)
            for name, steps in self.steps_left.items()
        )
