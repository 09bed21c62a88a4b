"""How the processes of a run agree on a file: all hand in a message, the first answers each.

A failure of one is the failure of all, with one line that names the rank, and nobody waits for a
message that will not come: what went wrong is itself the message.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import final

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

from turnout.checkpoint.index import CheckpointError
from turnout.config.errors import UserError

Judge = Callable[[list[str]], list[str]]
TIMEOUT = timedelta(minutes=30)  # a rank may have to read a terabyte before it answers
_SLICE = timedelta(seconds=0.5)  # of waiting, in which no signal is heeded


class Left(Exception):
    """Another rank has left for good, and will not answer: nothing can be agreed any more."""


def nobody() -> str:
    """Who has left, where nobody keeps watch."""
    return ""


class Ranks(ABC):
    """The processes of a run, seen from one of them."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process's number, from 0 on."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many there are."""

    @abstractmethod
    def consult(self, work: Callable[[], str], judge: Judge) -> str:
        """Called by all ranks in the same order, from one thread at a time.

        Args:
            work: does this rank's part and returns its message.
            judge: called on rank 0 alone, with all messages by rank; returns an answer for each.

        Returns:
            The answer for this rank.

        Raises:
            CheckpointError: the work of a rank or the judge failed, or a rank did not answer.
            Left: a rank left meanwhile.
        """

    @abstractmethod
    def apart(self) -> "Ranks":
        """The same processes on a line of their own, for another thread.

        All ranks call it in the same order.
        """


@final
class Alone(Ranks):
    """One process; what fails is raised as it is."""

    @property
    def rank(self) -> int:
        return 0

    @property
    def size(self) -> int:
        return 1

    def consult(self, work: Callable[[], str], judge: Judge) -> str:
        return judge([work()])[0]

    def apart(self) -> Ranks:
        return self


@final
class OverStore(Ranks):
    """Processes that share a key-value store of torch.

    Not a process group: a store may be used while the main thread is inside of a collective, and
    a rank that is gone is named.

    Args:
        store: one that no other thread waits on; of a TCPStore a ``clone()``.
        timeout: how long the first rank waits for the slowest one.
        absent: which rank has left for good, in words; empty while none has. Asked again and
            again while this one waits.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        timeout: timedelta = TIMEOUT,
        absent: Callable[[], str] = nobody,
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._timeout, self._absent = timeout, absent
        self._count = self._lines = 0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    def consult(self, work: Callable[[], str], judge: Judge) -> str:
        self._count += 1
        name = f"consult/{self._count}"
        own: Exception | None = None
        try:
            message = _said(work())
        except Exception as error:  # whatever it is: the others must not wait
            own, message = error, _failed(_blaming(self._rank, error))
        self._store.set(f"{name}/{self._rank}", message)
        if self._rank == 0:
            self._answer(name, judge)
        text = self._word(f"{name}/answer/{self._rank}", 2 * self._timeout)
        if text is None:
            raise CheckpointError(f"rank 0 did not answer within {2 * self._timeout}")
        answer = json.loads(text)
        if "left" in answer:
            raise Left(answer["left"])
        if "failed" not in answer:
            return str(answer["said"])
        if own is not None and not isinstance(own, OSError | UserError):
            raise own
        raise CheckpointError(answer["failed"], agreed=True) from own

    def apart(self) -> Ranks:
        self._lines += 1
        store = PrefixStore(f"line/{self._lines}", self._store.clone())  # type: ignore[attr-defined]
        return OverStore(store, self._rank, self._size, self._timeout, self._absent)

    def _answer(self, name: str, judge: Judge) -> None:
        try:
            found = [self._word(f"{name}/{rank}", self._timeout) for rank in range(self._size)]
            silent = [str(rank) for rank, text in enumerate(found) if text is None]
            if silent:
                raise CheckpointError(
                    f"rank {', '.join(silent)} did not answer within {self._timeout}"
                )
            messages = [json.loads(text or "") for text in found]
            failed = {message["failed"]: None for message in messages if "failed" in message}
            if failed:
                raise CheckpointError("; ".join(list(failed)[:3]))
            answers = [_said(text) for text in judge([message["said"] for message in messages])]
        except Left as error:
            answers = [json.dumps({"left": str(error)})] * self._size
        except UserError as error:
            answers = [_failed(str(error))] * self._size
        except Exception as error:
            answers = [_failed(f"rank 0: {_line(error)}")] * self._size
        for rank, answer in enumerate(answers):
            self._store.set(f"{name}/answer/{rank}", answer)

    def _word(self, key: str, timeout: timedelta) -> str | None:
        """What stands under a key, which is then removed; None if nothing comes in time.

        Raises:
            Left: a rank has left; what is there already is taken nevertheless.
        """
        end = time.monotonic() + timeout.total_seconds()
        while not self._came(key):
            gone = self._absent()
            if gone:
                raise Left(gone)
            if time.monotonic() > end:
                return None
        text = self._store.get(key).decode()
        self._store.delete_key(key)
        return text

    def _came(self, key: str) -> bool:
        """Whether a key is there, after a slice of time at most."""
        try:
            self._store.wait([key], _SLICE)
        except DistStoreError:
            return False
        except RuntimeError as error:
            if str(error).startswith("Wait timeout"):  # as a FileStore says it
                return False
            raise
        return True


def _said(text: str) -> str:
    return json.dumps({"said": text})


def _failed(text: str) -> str:
    return json.dumps({"failed": text})


def _blaming(rank: int, error: Exception) -> str:
    """What went wrong, with the rank; a failure that all agreed on before names it already."""
    agreed = isinstance(error, CheckpointError) and error.agreed
    return str(error) if agreed else f"rank {rank}: {_line(error)}"


def _line(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
