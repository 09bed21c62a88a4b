"""What may watch a run. Hooks see plain values and change nothing."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from turnout.config.train import RunConfig
from turnout.train.report import Evaluation, Event, StepReport


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        run: its configuration.
        step: steps already done.
        header: lines to show first.
        checkpoint: of exactly that step, where the run goes on from one.
    """

    run: RunConfig
    step: int
    header: tuple[str, ...]
    checkpoint: Path | None = None


@dataclass(frozen=True)
class End:
    """How a run ended: steps done, whether it came to its end, the last checkpoint."""

    step: int
    finished: bool
    checkpoint: Path | None


class Hook(ABC):
    """Called by the trainer in the order of the list; ``on_end`` also after an error."""

    @abstractmethod
    def on_start(self, start: Start) -> None: ...

    @abstractmethod
    def on_step(self, report: StepReport) -> None: ...

    @abstractmethod
    def on_evaluate(self, evaluation: Evaluation) -> None: ...

    @abstractmethod
    def on_save(self, step: int, folder: Path) -> None: ...

    @abstractmethod
    def on_event(self, event: Event) -> None: ...

    @abstractmethod
    def on_end(self, end: End) -> None: ...
