"""What a process of several says when it leaves, and in which order."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from turnout.checkpoint.index import CheckpointError
from turnout.checkpoint.ranks import Left
from turnout.cli.launch import ASIDE, PATIENCE, Launch
from turnout.config.errors import ConfigError, UserError


class Ended(BaseException):
    """In the place of the end of the process."""


Leave = Callable[[int, Exception], str]


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Leave]:
    """What rank ``r`` of four says when its work raises an error; `waits` where it does first."""

    def exit(code: int) -> None:
        assert code == 2
        raise Ended

    def sleep(seconds: float) -> None:
        print({PATIENCE: "waits; ", ASIDE: "steps aside; "}[seconds], end="")

    def said(rank: int, error: Exception) -> str:
        def work() -> int:
            raise error

        with pytest.raises(Ended):
            Launch(rank, 4).run(work)
        printed = capsys.readouterr()
        return printed.out + printed.err

    monkeypatch.setattr(os, "_exit", exit)
    monkeypatch.setattr(time, "sleep", sleep)
    before = signal.getsignal(signal.SIGTERM)
    yield said
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "error", [ConfigError("train.steps", 0, "at least 1"), CheckpointError("rank 1: a full disk")]
)
def test_what_all_find_the_first_says_and_the_others_wait_to_be_ended(
    leave: Leave, error: Exception
) -> None:
    assert leave(0, error) == f"error: {error}\n"
    # Still there after that: the first rank did not find it, and this one says it.
    assert leave(3, error) == f"waits; error: rank 3: {error}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no such file"), "error: rank 2: no such file\n"),
        (OSError("a full disk"), "error: rank 2: a full disk\n"),
        (Left("rank 1 has left: E: x"), "rank 2 leaves: rank 1 has left: E: x\n"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer"),
            "steps aside; rank 2 leaves: the connection to another rank broke\n",
        ),
        (
            RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed."),
            "steps aside; rank 2 leaves: the connection to another rank broke\n",
        ),
    ],
)
def test_what_one_rank_finds_has_its_number(leave: Leave, error: Exception, line: str) -> None:
    assert leave(2, error) == line


def test_a_defect_comes_with_its_trace_and_one_line(leave: Leave) -> None:
    said = leave(1, ZeroDivisionError("a defect"))
    assert said.startswith("Traceback")
    assert said.endswith("\nerror: rank 1: ZeroDivisionError: a defect\n")


def test_waiting_in_vain_is_no_broken_connection(leave: Leave) -> None:
    text = "[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv"
    assert leave(1, RuntimeError(text)).endswith(f"\nerror: rank 1: RuntimeError: {text}\n")


def test_a_line_is_not_cut_short_by_the_signal_that_ends_the_others(leave: Leave) -> None:
    leave(1, UserError("no such file"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
