"""TensorBoard: the figures of a run as scalars, where the ``tensorboard`` package is installed."""

from pathlib import Path
from typing import final

from torch.utils.tensorboard import SummaryWriter

from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation, Event, StepReport

FOLDER = "tensorboard"


@final
class TensorBoard(Hook):
    """Writes event files to ``RUN/tensorboard``; ``tensorboard --logdir RUN`` shows them.

    A run that resumes hides what lies behind its checkpoint (``purge_step``).
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writer: SummaryWriter | None = None

    def on_start(self, start: Start) -> None:
        self._writer = SummaryWriter(self._folder, purge_step=start.step + 1)

    def on_step(self, report: StepReport) -> None:
        figures = {
            "train/loss": report.loss,
            "train/bits": report.bits,
            "train/learning_rate": report.learning_rate,
            "train/gradient_norm": report.gradient_norm,
            "train/tokens_per_second": report.tokens_per_second,
            **{f"terms/{name}": value for name, value in report.terms.items()},
        }
        for layer in report.layers:
            figures |= {
                f"balance/{layer.name}": layer.balance,
                f"dropped/{layer.name}": layer.dropped,
                f"entropy/{layer.name}": layer.entropy,
            }
        self._add(figures, report.step)

    def on_evaluate(self, evaluation: Evaluation) -> None:
        self._add(
            {"validation/loss": evaluation.loss, "validation/bits": evaluation.bits},
            evaluation.step,
        )

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint is no figure."""

    def on_event(self, event: Event) -> None:
        if self._writer is not None:
            where = f" in {event.layer}" if event.layer else ""
            self._writer.add_text(event.name, f"{event.text}{where}", event.step)

    def on_end(self, end: End) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, figures: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
