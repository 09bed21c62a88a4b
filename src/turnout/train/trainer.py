"""The loop: steps, evaluations and checkpoints, in an order that the step number decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from signal import Signals

from turnout.checkpoint import folders
from turnout.checkpoint.saver import Saver
from turnout.config.errors import UserError
from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.data.pipeline import Data
from turnout.objectives import LanguageObjective
from turnout.train.actions import answer, with_coefficients
from turnout.train.alarms import watch
from turnout.train.average import averaged
from turnout.train.control import Best
from turnout.train.counts import Counts
from turnout.train.evaluate import evaluate
from turnout.train.header import run_header
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.hooks.metrics import METRICS, MetricsWriter
from turnout.train.ranks import Ranks, told
from turnout.train.report import Evaluation, Event, EventName, StepReport
from turnout.train.saves import Saves
from turnout.train.saving import save_state
from turnout.train.session import Session
from turnout.train.state import TrainState, resume
from turnout.train.step import optimiser_step
from turnout.train.stopping import Interrupted, StopRequest, stop_requests
from turnout.train.zero_gradient import check_coefficients


@dataclass(frozen=True)
class Trainer:
    """Everything a run needs; ``run`` the method trains.

    Attributes:
        config: the resolved run.
        state: what training changes.
        data: batches by their index.
        objective: model, batch -> loss.
        hooks: who watches.
        folder: where checkpoints go; None saves none, and cannot roll back.
        header: lines the hooks may show first.
    """

    config: RunConfig
    state: TrainState
    data: Data
    objective: LanguageObjective
    hooks: Sequence[Hook] = ()
    folder: Path | None = None
    header: tuple[str, ...] = ()

    @staticmethod
    def of(
        session: Session, folder: str | Path | None = None, hooks: Sequence[Hook] = ()
    ) -> "Trainer":
        """The trainer of ``open_session``'s session.

        Args:
            folder: the run's, where checkpoints and ``metrics.jsonl`` go; None writes nothing.
            hooks: who watches, beside the metrics.
        """
        run = None if folder is None else Path(folder)
        first = session.state.ranks.rank == 0  # the one that writes
        metrics = () if run is None or not first else (MetricsWriter(run / METRICS),)
        where = () if run is None else (f"folder     {run}",)
        return Trainer(
            session.config,
            session.state,
            session.data,
            session.objective,
            (*metrics, *hooks),
            run,
            (*run_header(session), *where),
        )

    def run(self, until: int | None = None) -> Evaluation:
        """Train to step ``until``, the end of the run by default, and evaluate there.

        Raises:
            UserError: a coefficient without effect, or bad steps that no rollback helps against.
            Interrupted: SIGINT or SIGTERM came; the state is saved.
        """
        last = self.config.train.steps if until is None else until
        if self.state.step < last and self.ranks.size == 1:
            # Where there are more, the session looked before it laid the model over them.
            first = self.data.micro_batches(self.state.control.batch)
            check_coefficients(self.state.model, self.objective, first)
        validation = self.data.validation()
        finished = False
        try:
            start = Start(self.config, self.state.step, self.header, self._checkpoint_here())
            for hook in self.hooks:
                hook.on_start(start)
            with stop_requests(self.ranks.request) as request:
                evaluation = self._steps(last, validation, request)
            finished = self.state.step >= self.config.train.steps or self._out_of_patience()
        finally:
            # Whatever went wrong may have left this rank alone: it asks nobody.
            end = End(self.state.step, finished, self._newest())
            for hook in self.hooks:
                hook.on_end(end)
        return evaluation

    def _steps(self, last: int, validation: list[Batch], request: StopRequest) -> Evaluation:
        state = self.state
        evaluation = None
        if state.step < last:
            self._save()  # a run can always go back to its start, and a full disk shows at once
        while state.step < last and not self._out_of_patience():
            batches, counts = self._turn(request)
            report = self._step(batches, counts)
            evaluation = None
            if state.control.skipped >= self.config.guards.max_skipped:
                self._roll_back(
                    f"{state.control.skipped} steps in a row were skipped, the last because "
                    f"{report.skipped}"
                )
                continue
            if state.step == last or state.step % self.config.train.eval_every == 0:
                evaluation = self._evaluate(validation)
            if self._is_due(evaluation, last) and not self._save():
                self._roll_back("the weights are no longer finite")
        if state.step < last and state.control.best is not None:
            self._say(
                "patience",
                f"no evaluation was better than that after step {state.control.best.step} for "
                f"{self.config.train.patience} of them (train.patience): the run ends; "
                "--train.patience 0 goes on",
            )
        self.saves.settle()
        return evaluation or self._evaluate(validation)

    @cached_property
    def saves(self) -> Saves:
        """The checkpoints that are being written."""
        saver = Saver(self.ranks.messages.apart(), self.config.train.save_in_background)
        return Saves(saver, self.hooks)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.state.ranks

    def _turn(self, request: StopRequest) -> tuple[list[Batch], Counts]:
        """This rank's part of the next step's batch, and what all ranks' parts count together.

        Raises:
            Interrupted: a signal has come to one of them; the state is saved.
        """
        batches: list[Batch] = []

        def work() -> list[float]:
            self.saves.look()
            batches.extend(self.ranks.share(self.data.micro_batches(self.state.control.batch)))
            return Counts.numbers(self.objective, batches)

        signal = 0 if request.signal is None else int(request.signal)
        turn = self.ranks.turn(work, Counts.NUMBERS, signal)
        if turn.signal:
            raise self._interrupted(Signals(turn.signal), turn.rank)
        return batches, Counts.of(turn.numbers, len(batches))

    def _step(self, batches: list[Batch], counts: Counts) -> StepReport:
        state = self.state
        losses = with_coefficients(self.objective.losses, state.control.coefficients)
        objective = self.objective.with_losses(losses)
        report = optimiser_step(state, objective, batches, self.config, counts)
        for hook in self.hooks:
            hook.on_step(report)
        if report.skipped:
            self._say("skip", report.skipped)
        else:
            self._watch(report)
        return report

    def _watch(self, report: StepReport) -> None:
        """Raises the alarms of a step, and lets them act where the run says so."""
        control, config = self.state.control, self.config.alarms
        watches, alarms = watch(control.watches, report.layers, config)
        for alarm in alarms:
            self._say("alarm", f"{alarm.name}: {alarm.text}", alarm.layer)
        losses = self.objective.losses
        actions = answer(alarms, losses, control.coefficients) if config.act else ()
        for action in actions:
            self._say("action", action.text, action.alarm.layer)
        changed = {action.coefficient: action.after for action in actions}
        self.state.control = replace(
            control, watches=watches, coefficients={**control.coefficients, **changed}
        )

    def _evaluate(self, validation: list[Batch]) -> Evaluation:
        state, sources = self.state, self.data.source_names
        with averaged(state.weights, state.average):
            evaluation = evaluate(
                state.model, self.objective, validation, state.step, sources, state.ranks
            )
        for hook in self.hooks:
            hook.on_evaluate(evaluation)
        return evaluation

    def _is_due(self, evaluation: Evaluation | None, last: int) -> bool:
        """Whether to save now: at the end, at the interval, and what is the best so far.

        Not while steps are being skipped: what such a run may have to go back to must stay.
        """
        state = self.state
        if state.control.skipped:
            return state.step == last
        if self._out_of_patience():
            return True
        best = state.control.best
        if evaluation is not None and (best is None or evaluation.loss < best.loss):
            state.control = replace(state.control, best=Best(state.step, evaluation.loss))
            return True
        return state.step == last or state.step % self.config.train.save_every == 0

    def _out_of_patience(self) -> bool:
        """Whether the evaluations have not become better for too long."""
        best = self.state.control.best
        return best is not None and self.config.train.out_of_patience(self.state.step, best.step)

    def _save(self) -> bool:
        """Save unless this step is saved already; False if the weights are not fit to be."""
        self.saves.settle()
        if self.folder is None or self._checkpoint_here() is not None:
            return True
        folder = save_state(self.folder, self.state, self.config, self.data, self.saves.saver)
        if folder is None:
            return False
        self.saves.begun(self.state.step, folder)
        return True

    def _roll_back(self, reason: str) -> None:
        """Back to the last checkpoint, and on with the batches behind the bad ones.

        Raises:
            UserError: there is no checkpoint, or the run went back too often.
        """
        self.saves.settle()
        state, most = self.state, self.config.guards.max_rollbacks
        checkpoint, control = self._last_checkpoint(), self.state.control
        advice = "lower optimizer.learning_rate, or look at the data"
        if checkpoint is None:
            raise UserError(
                f"step {state.step}: {reason}; there is no checkpoint to go back to; {advice}"
            )
        if control.rollbacks >= most:
            raise UserError(
                f"step {state.step}: {reason}; the run went back {control.rollbacks} times already "
                f"(guards.max_rollbacks = {most}); {advice}"
            )
        resume(state, self.config, checkpoint)
        state.control = replace(
            state.control, batch=control.batch, rollbacks=control.rollbacks + 1, skipped=0
        )
        self._say("rollback", f"{reason}; back to {checkpoint.name}, on with batch {control.batch}")

    def _interrupted(self, number: Signals, rank: int) -> Interrupted:
        kept = "the state is saved" if self._save() else "a weight is not finite: nothing is saved"
        self.saves.settle()
        where = f" (to rank {rank})" if self.ranks.size > 1 else ""
        self._say("interrupt", f"{number.name}{where}; {kept}")
        return Interrupted(number, self.state.step, self._checkpoint_here())

    def _say(self, name: EventName, text: str, layer: str | None = None) -> None:
        event = Event(self.state.step, name, text, layer)
        for hook in self.hooks:
            hook.on_event(event)

    def _last_checkpoint(self) -> Path | None:
        if self.folder is None:
            return None
        # What one rank sees, whatever the disk shows the others.
        found = told(self.ranks, lambda: str(self._newest() or ""))
        return Path(found) if found else None

    def _newest(self) -> Path | None:
        """The newest checkpoint that this rank sees."""
        steps = [] if self.folder is None else folders.saved_steps(self.folder)
        return steps[-1][1] if steps else None

    def _checkpoint_here(self) -> Path | None:
        """The checkpoint of exactly this step."""
        newest = self._last_checkpoint()
        here = self.folder and folders.step_folder(self.folder, self.state.step)
        return newest if newest is not None and newest == here else None
