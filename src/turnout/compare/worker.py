"""The process that trains one run of a comparison: ``python -m turnout.compare.worker FOLDER N``.

The one place where a comparison meets the trainer. FOLDER holds ``run.toml``; the worker trains
it from its newest checkpoint on, if there is one, and leaves ``result.json``; N runs are trained at
once, this one among them. Its standard output
is one JSON object a line, for the comparison; what the trainer says goes to ``log.txt``. It stops
as at Ctrl-C when its standard input ends, so that it never outlives the comparison.
"""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import final

import torch

from turnout.checkpoint import folders
from turnout.compare.process import LOG, RUN_FILE, STOPPED, Told
from turnout.compare.track import Outcome, write_outcome
from turnout.config import io
from turnout.config.errors import UserError
from turnout.train.hooks.base import End, Hook, Start
from turnout.train.hooks.plain import PlainLines
from turnout.train.hooks.starts import StartsWriter
from turnout.train.host_memory import keep_freed_memory
from turnout.train.machine import package_version, processor
from turnout.train.report import Evaluation, Event, StepReport, finite
from turnout.train.session import Session, open_session, saved_config
from turnout.train.trainer import Trainer

Say = Callable[[Told], None]

_EVERY = 1.0  # seconds between two lines about steps


def main(folder: Path, at_once: int = 1) -> int:
    """Train the run in ``folder``; returns 0, 2 after an error of the user's, or ``STOPPED``."""
    # A shell may have started us with SIGINT ignored, and it is how the comparison stops us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    say = _channel()
    try:
        write_outcome(folder, train(folder, say, at_once))
    except KeyboardInterrupt:
        return STOPPED
    except (UserError, OSError) as error:
        say(Told(error=" ".join(str(error).split())))
        return 2
    finally:
        # The comparison lets go of us once we are silent; that must not interrupt our ending.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


def train(folder: Path, say: Say, at_once: int = 1) -> Outcome:
    """Train to the end of the run, or to where its numbers are no longer finite.

    Raises:
        UserError: as ``open_session``, and whatever else than bad numbers stops the trainer.
        KeyboardInterrupt: it was stopped.
    """
    keep_freed_memory()
    started = time.monotonic()
    checkpoint = folders.latest(folder) if folders.saved_steps(folder) else None
    config = io.load_toml(folder / RUN_FILE) if checkpoint is None else saved_config(folder)
    if at_once > 1 and not config.train.threads:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // at_once))
    session = open_session(config, checkpoint)
    first, watch, failed = session.state.step, Watch(say), ""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        lines = PlainLines(lambda line: print(line, file=log, flush=True))
        try:
            Trainer.of(session, folder, [StartsWriter(folder), lines, watch]).run()
        except UserError as error:
            if not watch.skipped:
                raise
            failed = str(error)
    if not failed and session.state.step < session.config.train.steps:
        raise KeyboardInterrupt  # the trainer ended well, and before its end
    return _outcome(session, first, time.monotonic() - started, failed, at_once)


@final
class Watch(Hook):
    """Tells the comparison about steps, and knows whether the last one was skipped."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.skipped = ""
        self._next = 0.0

    def on_start(self, start: Start) -> None:
        self._say(Told(start.step))

    def on_step(self, report: StepReport) -> None:
        self.skipped = report.skipped
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            self._say(Told(report.step))

    def on_evaluate(self, evaluation: Evaluation) -> None:
        self._say(Told(evaluation.step, finite(evaluation.loss)))

    def on_save(self, step: int, folder: Path) -> None:
        """Says nothing: steps and evaluations tell enough."""

    def on_event(self, event: Event) -> None:
        """Says nothing: the log has it."""

    def on_end(self, end: End) -> None:
        """Nothing is left open."""


def peak_memory() -> int | None:
    """The largest resident set of this process in bytes.

    Linux keeps it by program: ``ru_maxrss`` would start from the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return _maxrss()


def _maxrss() -> int | None:
    """``ru_maxrss``, which macOS gives in bytes and others in KiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _outcome(session: Session, first: int, seconds: float, failed: str, at_once: int) -> Outcome:
    return Outcome(
        step=session.state.step,
        first_step=first,
        seconds=round(seconds, 3),
        peak_memory=peak_memory(),
        threads=torch.get_num_threads(),
        dtype=str(session.dtype).removeprefix("torch."),
        processor=f"{processor()}, {os.cpu_count()} processors",
        python=platform.python_version(),
        torch=torch.__version__,
        turnout=package_version("turnout"),
        text_sha256=session.data.summary.sha256,
        text=session.data.summary.text(),
        failed=failed,
        at_once=at_once,
    )


def _channel() -> Say:
    """What hands lines to the comparison; whatever else is printed goes to standard error."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(told: Told) -> None:
        # The thread that watches standard input stops us when nobody listens.
        with suppress(BrokenPipeError):
            print(told.line(), file=channel, flush=True)

    return say


def _stop_with_parent() -> None:
    # Unbuffered: a thread that waits in a buffer would hold its lock when the process ends.
    while os.read(sys.stdin.fileno(), 1):
        continue
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
