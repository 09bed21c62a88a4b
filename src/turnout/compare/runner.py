"""Trains the runs of a comparison, and goes on where an earlier call stopped."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

from turnout.compare.lock import LOCK, locked
from turnout.compare.pace import Pace
from turnout.compare.process import RUN_FILE, Launch, Told
from turnout.compare.track import Outcome, Track, read_outcome, read_track
from turnout.config import io
from turnout.config.arms import PlannedRun, arms, count_runs, measured, trials
from turnout.config.compare import Protocol, difference, from_table
from turnout.config.errors import UserError

PROTOCOL, RUNS = "protocol.toml", "runs"


@dataclass(frozen=True)
class Progress:
    """Where a comparison is: run ``number`` of ``total``, and seconds left for all, if known.

    ``loss`` is the validation loss where the run has just been evaluated. ``done`` says that the
    run is over.
    """

    number: int
    total: int
    run: str
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None
    done: bool = False


@dataclass(frozen=True)
class Finished:
    """A run that is over, and what it recorded. ``track`` is None if it failed unevaluated."""

    planned: PlannedRun
    folder: Path
    outcome: Outcome
    track: Track | None

    @property
    def final_loss(self) -> float:
        """Of the last evaluation; infinity for a run that failed."""
        if self.outcome.failed or self.track is None:
            return float("inf")
        return self.track.losses[-1]


def prepare(protocol: Protocol, folder: Path) -> None:
    """Make ``folder`` the protocol's: write ``protocol.toml``, or check that it is this one.

    Raises:
        UserError: the folder holds another protocol, or files without one, or the arms do not
            have the arithmetic they must have.
    """
    arms(protocol)
    path = folder / PROTOCOL
    if path.exists():
        _check_same(from_table(io.load_table(path), str(path)), protocol, folder)
        return
    partial = path.with_suffix(".partial")
    strange = {each.name for each in folder.glob("*")} - {LOCK, partial.name}
    if strange:
        raise UserError(
            f"{folder}: holds {min(strange)} and no {PROTOCOL}, so it is no comparison's; name "
            "another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial.write_text(protocol.toml(), encoding="utf-8")
    partial.replace(path)


def run_all(
    protocol: Protocol,
    folder: Path,
    say: Callable[[Progress], None],
    launch: Launch,
    jobs: int = 1,
) -> tuple[Finished, ...]:
    """Train all that the protocol asks for and that ``folder`` does not have yet.

    Args:
        folder: made if it is not there; ``protocol.toml`` is written before the first run.
        say: told after evaluations, about once a second, and at the end of each run; by one thread
            at a time, and not the caller's.
        launch: how a run is trained.
        jobs: how many are trained at once.

    Returns:
        Every run, those of the trials first.

    Raises:
        UserError: the folder holds another protocol, another comparison works in it, a run cannot
            be trained, or every learning rate of an arm failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as lock:
        prepare(protocol, folder)
        work = _Work(folder, lock, say, launch, _pace(protocol, jobs))
        tried = work.runs(trials(protocol), ())
        return work.runs(measured(protocol, chosen(protocol, tried)), tried)


def chosen(protocol: Protocol, tried: tuple[Finished, ...]) -> dict[str, float]:
    """The learning rate of each arm that has its own: the best final loss, the first of equals.

    Raises:
        UserError: no rate of an arm led to a finite loss.
    """
    rates = protocol.compare.learning_rates
    best = {}
    for arm in arms(protocol):
        if arm.rate_of != arm.name:
            continue
        mine = {run.planned.rate: run for run in tried if run.planned.arm.name == arm.name}
        best[arm.name] = min(rates, key=lambda rate: mine[rate].final_loss) if mine else rates[0]
        if mine and mine[best[arm.name]].final_loss == float("inf"):
            raise UserError(
                f"compare.learning_rates = {list(rates)}: none leads {arm.name} to a finite loss; "
                "lower them, in another folder"
            )
    return best


class _Stopped(Exception):
    """What ends a run when another one has failed."""


@dataclass
class _Shared:
    """What the threads of a comparison know of each other; ``guard`` is held to touch it."""

    guard: RLock = field(default_factory=RLock)
    failure: BaseException | None = None
    first: Finished | None = None

    def check(self) -> None:
        """Raises ``_Stopped`` once anything has failed."""
        if self.failure is not None:
            raise _Stopped

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Whatever goes wrong first is what went wrong."""
        try:
            yield
        except BaseException as error:
            with self.guard:
                self.failure = self.failure or error
            raise


@dataclass(frozen=True)
class _Work:
    """What all runs share."""

    folder: Path
    lock: int
    say: Callable[[Progress], None]
    launch: Launch
    pace: Pace
    shared: _Shared = field(default_factory=_Shared)

    def runs(
        self, planned: tuple[PlannedRun, ...], before: tuple[Finished, ...]
    ) -> tuple[Finished, ...]:
        """Those of ``before``, then the planned ones, each from the folder, or trained.

        Raises:
            UserError: a run failed, or had another text than the first; the others are stopped.
        """
        with ThreadPoolExecutor(self.pace.jobs) as pool:
            waiting = [pool.submit(self._run, each) for each in planned]
            try:
                with self.shared.noticing():
                    return (*before, *(each.result() for each in waiting))
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise self.shared.failure or error from None

    def _run(self, planned: PlannedRun) -> Finished:
        with self.shared.noticing():
            self.shared.check()
            folder = self.folder / RUNS / planned.name
            known = read_outcome(folder)
            with self.shared.guard:
                self.pace.number(planned)
            outcome = known or self._train(planned, folder)
            track = None if outcome.failed and not _evaluated(folder) else read_track(folder)
            finished = Finished(planned, folder, outcome, track)
            with self.shared.guard:
                self.pace.finish(planned, outcome)
                if known is None:
                    self._say(planned, outcome.step, None, done=True)
                self.shared.first = self.shared.first or finished
                _check_text(self.shared.first, finished)
            return finished

    def _train(self, planned: PlannedRun, folder: Path) -> Outcome:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(io.dump_toml(planned.config), encoding="utf-8")

        def tell(told: Told) -> None:
            self.shared.check()
            with self.shared.guard:
                self.pace.step(planned, told.step)
                self._say(planned, told.step, told.loss)

        with self.shared.guard:
            self.pace.begin(planned)
        self.launch(folder, self.lock, tell)
        outcome = read_outcome(folder)
        if outcome is None:
            raise UserError(f"run {planned.name}: ended without {folder / 'result.json'}")
        return outcome

    def _say(self, planned: PlannedRun, step: int, loss: float | None, done: bool = False) -> None:
        number, left = self.pace.number(planned), self.pace.left()
        total, steps = self.pace.total, planned.steps
        self.say(Progress(number, total, planned.name, step, steps, loss, left, done))


def _check_text(first: Finished, last: Finished) -> None:
    ours, theirs = last.outcome.text_sha256[:12], first.outcome.text_sha256[:12]
    if ours != theirs:
        raise UserError(
            f"run {last.planned.name}: its text (sha256 {ours}) is not that of "
            f"{first.planned.name} ({theirs}); restore the text, remove {last.folder}, and type "
            "the command again"
        )


def _evaluated(folder: Path) -> bool:
    try:
        read_track(folder)
    except UserError:
        return False
    return True


def _pace(protocol: Protocol, jobs: int) -> Pace:
    planned = [
        *((run.arm, run.steps) for run in trials(protocol)),
        *((arm, arm.config.train.steps) for arm in arms(protocol) for _ in range(arm.seeds)),
    ]
    assert len(planned) == count_runs(protocol)
    return Pace.of(planned, jobs)


def _check_same(there: Protocol, here: Protocol, folder: Path) -> None:
    found = difference(there, here)
    if found is not None:
        raise UserError(
            f"{folder}: holds another protocol: {found}; name another folder with --out, or go on "
            f"with --config {folder / PROTOCOL} --out {folder}"
        )
