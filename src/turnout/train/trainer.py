"""The loop: steps, evaluations and checkpoints, in an order that the step number decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turnout.checkpoint import folders
from turnout.checkpoint.write import save
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.data.pipeline import Data
from turnout.objectives import LanguageObjective
from turnout.train.evaluate import evaluate
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.report import Evaluation
from turnout.train.state import TrainState, export
from turnout.train.step import optimiser_step
from turnout.train.zero_gradient import check_coefficients

KEEP_CHECKPOINTS = 2
MOST_BAD_STEPS = 10


@dataclass(frozen=True)
class Trainer:
    """Everything a run needs; ``run`` the method trains.

    Attributes:
        config: the resolved run.
        state: what training changes.
        data: batches by step number.
        objective: model, batch -> loss.
        hooks: who watches.
        folder: where checkpoints go; None saves none.
        header: lines the hooks may show first.
    """

    config: RunConfig
    state: TrainState
    data: Data
    objective: LanguageObjective
    hooks: Sequence[Hook] = ()
    folder: Path | None = None
    header: tuple[str, ...] = ()

    def run(self, until: int | None = None) -> Evaluation:
        """Train to step ``until``, the end of the run by default, and evaluate there.

        Raises:
            UserError: a coefficient without effect, or too many bad steps in a row.
        """
        last = self.config.train.steps if until is None else until
        if self.state.step < last:
            first = self.data.micro_batches(self.state.step)
            check_coefficients(self.state.model, self.objective, first)
        validation = self.data.validation()
        finished = False
        try:
            for hook in self.hooks:
                hook.on_start(Start(self.config, self.state.step, self.header))
            evaluation = self._steps(last, validation)
            finished = self.state.step >= self.config.train.steps
        finally:
            end = End(self.state.step, finished, self._last_checkpoint())
            for hook in self.hooks:
                hook.on_end(end)
        return evaluation

    def _steps(self, last: int, validation: list[Batch]) -> Evaluation:
        train, state = self.config.train, self.state
        bad = 0
        evaluation = None
        while state.step < last:
            batches = self.data.micro_batches(state.step)
            report = optimiser_step(state, self.objective, batches, self.config)
            for hook in self.hooks:
                hook.on_step(report)
            bad = bad + 1 if report.skipped else 0
            if bad == MOST_BAD_STEPS:
                raise UserError(
                    f"{bad} steps in a row were skipped, the last because {report.skipped}; lower "
                    "optimizer.learning_rate and resume from the last checkpoint"
                )
            evaluation = None
            if state.step % train.eval_every == 0:
                evaluation = self._evaluate(validation)
            if state.step == last or (train.save_every and state.step % train.save_every == 0):
                self._save()
        return evaluation or self._evaluate(validation)

    def _evaluate(self, validation: list[Batch]) -> Evaluation:
        sources = self.data.source_names
        evaluation = evaluate(
            self.state.model, self.objective, validation, self.state.step, sources
        )
        for hook in self.hooks:
            hook.on_evaluate(evaluation)
        return evaluation

    def _save(self) -> None:
        if self.folder is None:
            return
        folder = folders.step_folder(self.folder, self.state.step)
        folders.clear(folder)
        tensors, meta = export(self.state, self.config)
        save(folder, tensors, {**meta, "text": self.data.summary.sha256})
        folders.prune(self.folder, KEEP_CHECKPOINTS)
        for hook in self.hooks:
            hook.on_save(self.state.step, folder)

    def _last_checkpoint(self) -> Path | None:
        steps = [] if self.folder is None else folders.saved_steps(self.folder)
        return steps[-1][1] if steps else None
