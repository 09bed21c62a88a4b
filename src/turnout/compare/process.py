"""A run trained in a process of its own, and what the two say to each other.

A process gives each run its own peak of memory, hands all of it back, and keeps one run's accident
from the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout.config.errors import UserError

RUN_FILE, LOG, ERRORS = "run.toml", "log.txt", "errors.txt"
STOPPED = 130
"""The exit code of a process that was told to stop, or whose trainer ended before its end."""


@dataclass(frozen=True)
class Told:
    """A line from the process: the step it is at, the loss if just evaluated, or its end in one
    line."""

    step: int = 0
    loss: float | None = None
    error: str = ""

    def line(self) -> str:
        """As it is sent."""
        return json.dumps(asdict(self))

    @staticmethod
    def parsed(line: bytes) -> "Told | None":
        """From what was sent; None from half a line, the last of a process that was killed."""
        try:
            return Told(**json.loads(line))
        except (ValueError, TypeError):
            return None


Launch = Callable[[Path, int, Callable[[Told], None]], None]
"""Trains the run in a folder, given the lock's descriptor, and tells of its steps."""


def launch_process(folder: Path, lock: int, tell: Callable[[Told], None], at_once: int = 1) -> None:
    """Train the run in ``folder`` in a process of its own.

    Args:
        at_once: how many runs share the machine; a run without ``train.threads`` takes its share of
            the processors.

    Raises:
        UserError: the process ended otherwise than well.
        Exception: what ``tell`` raises is passed on, after the process has stopped.
    """
    here = os.pathsep.join(map(os.path.abspath, sys.path))
    with (folder / ERRORS).open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "turnout.compare.worker", str(folder), str(at_once)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": here},
            pass_fds=() if os.name == "nt" else (lock,),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
        )
        problem = ""
        with process:
            try:
                for told in filter(None, map(Told.parsed, process.stdout or ())):
                    problem = told.error or problem
                    if not told.error:
                        tell(told)
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                process.wait()
    if process.returncode:
        raise UserError(f"run {folder.name}: {problem or _ended(process.returncode, folder)}")
    (folder / ERRORS).unlink()


def _ended(code: int, folder: Path) -> str:
    if code == STOPPED:
        return "was stopped; type the command again to go on"
    why = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = "; perhaps memory ran out" if code == -9 else ""
    return f"{why}{hint}; see {folder / ERRORS}, and type the command again to go on"
