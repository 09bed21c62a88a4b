"""A command that torchrun started several times: which of its processes this is. No torch."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from turnout.config.errors import ConfigError, UserError

_BROKEN = ("connection closed", "connection reset", "connection was", "broken pipe", "gloo")
PATIENCE = 5.0  # seconds for the first process to say what all of them should find
ASIDE = 1.0  # seconds for torchrun to see that another one is gone: it names the first to end


@dataclass(frozen=True)
class Launch:
    """One process of several, or the only one; ``attempt`` counts how often they were restarted."""

    rank: int = 0
    size: int = 1
    attempt: int = 0

    @staticmethod
    def of_environment() -> "Launch":
        """As torchrun says; one process where nobody says anything."""
        names = ("RANK", "0"), ("WORLD_SIZE", "1"), ("TORCHELASTIC_RESTART_COUNT", "0")
        return Launch(*(int(os.environ.get(name, default)) for name, default in names))

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def run(self, work: Callable[[], int]) -> int:
        """The exit code of ``work``; what goes wrong is said once, with the rank where it did.

        After a failure among several the process ends at once: the others may be waiting inside a
        collective, which ends when this one is gone.

        Raises:
            UserError: one process alone could not do its work.
        """
        if self.size == 1:
            return work()
        try:
            return work()
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # whatever it is, the other processes must not wait
            self._leave(error)

    def _leave(self, error: Exception) -> NoReturn:
        try:
            if _said_by_all(error) and not self.first:
                # The first says it and leaves, and torchrun ends the others: who is still here
                # after that was alone with it.
                time.sleep(PATIENCE)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until all is said
            if _broken(error):
                time.sleep(ASIDE)
            self._say(error)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(2)

    def _say(self, error: Exception) -> None:
        from turnout.checkpoint.ranks import Left

        if _said_by_all(error) and self.first:
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, Left):
            print(f"rank {self.rank} leaves: {error}", file=sys.stderr)
        elif isinstance(error, UserError | OSError):
            print(f"error: rank {self.rank}: {error}", file=sys.stderr)
        elif _broken(error):
            print(f"rank {self.rank} leaves: the connection to another rank broke", file=sys.stderr)
        else:
            traceback.print_exc()
            print(f"error: rank {self.rank}: {type(error).__name__}: {error}", file=sys.stderr)


def _said_by_all(error: Exception) -> bool:
    """Whether every process should raise the same: it follows from the configuration, or was
    agreed."""
    from turnout.checkpoint.index import CheckpointError

    return isinstance(error, ConfigError | CheckpointError)


def _broken(error: Exception) -> bool:
    """Whether torch says that a process at the other end is gone; it may be there and not come."""
    text = str(error).lower()
    gone = any(word in text for word in _BROKEN) and "timed out waiting" not in text
    return isinstance(error, RuntimeError) and gone
