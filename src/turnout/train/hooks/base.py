"""What may watch a run. Hooks see plain values and change nothing."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from turnout.config.train import RunConfig
from turnout.train.report import Evaluation, StepReport


@dataclass(frozen=True)
class Start:
    """What a run begins with: its configuration, steps already done, and the header's lines."""

    run: RunConfig
    step: int
    header: tuple[str, ...]


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
    def on_end(self, end: End) -> None: ...
