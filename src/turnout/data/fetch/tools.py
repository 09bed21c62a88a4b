"""Other programs: found on a path that is given, run without a shell, watched while they run."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """What a program left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def _nothing() -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Tools:
    """The programs of one search path.

    Attributes:
        path: folders to search, as in ``PATH``.
        environment: the variables that programs see; ``PATH`` and the locale are set here.
    """

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def find(self, program: str) -> str | None:
        """Where a program is, if it is there."""
        return shutil.which(program, path=self.path)

    def run(
        self, *words: str, folder: Path | None = None, watch: Callable[[], None] = _nothing
    ) -> Finished:
        """Run a program to its end; ``watch`` is called a few times a second meanwhile."""
        found = self.find(words[0])
        if found is None:
            return Finished(127, "", f"{words[0]} is not installed")
        environment = {**self.environment, "PATH": self.path, "LC_ALL": "C.UTF-8"}
        with subprocess.Popen(
            [found, *words[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            try:
                return _wait(process, watch)
            except BaseException:
                process.kill()  # the reader has been interrupted: nobody waits for it any more
                raise


def _wait(process: "subprocess.Popen[str]", watch: Callable[[], None]) -> Finished:
    while True:
        try:
            out, err = process.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            watch()
        else:
            return Finished(process.returncode, out, err)
