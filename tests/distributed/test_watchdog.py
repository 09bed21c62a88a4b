"""Who stands where: lines by hand, and three processes that wait for one of them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from turnout.parallel.watchdog import Standing, Watchdog, record_collectives, report

PLACE = "moe/dispatch/all_to_all.py:77 dispatch"
SIZE = 3


def waits(operation: str, since: float) -> Standing:
    return Standing(PLACE, since, operation, since, 9)


@pytest.mark.parametrize(
    ("standings", "line"),
    [
        (
            {
                0: waits("all_to_all (number 153 of expert)", 12.0),
                1: waits("all_to_all (number 153 of expert)", 11.0),
                2: Standing("data/pipeline.py:96 micro_batches", 13.0, "", 0.0, 9),
                3: waits("all_to_all (number 153 of expert)", 12.0),
            },
            f"waiting for 12 s: ranks 0-1, 3 in all_to_all (number 153 of expert), at {PLACE}; "
            "rank 2 is at data/pipeline.py:96 micro_batches, for 13 s",
        ),
        (
            {0: waits("all_reduce (number 7 of default_pg)", 10.0), 1: None},
            f"waiting for 10 s: rank 0 in all_reduce (number 7 of default_pg), at {PLACE}; "
            "rank 1 says nothing: it is gone, or stopped",
        ),
        (
            {
                0: waits("all_reduce (number 7 of default_pg)", 10.0),
                1: waits("all_gather (number 7 of default_pg)", 20.0),
            },
            f"waiting for 20 s: rank 0 in all_reduce (number 7 of default_pg), at {PLACE}; "
            f"rank 1 in all_gather (number 7 of default_pg), at {PLACE}",
        ),
        ({0: waits("all_reduce (number 7 of default_pg)", 9.9), 1: None}, ""),
        ({0: Standing(PLACE, 99.0, "", 0.0, 1), 1: Standing(PLACE, 99.0, "", 0.0, 1)}, ""),
    ],
)
def test_the_line_by_hand(standings: dict[int, Standing | None], line: str) -> None:
    assert report(standings, 10.0) == line


def test_many_that_do_not_wait_are_not_all_listed() -> None:
    standings: dict[int, Standing | None] = dict.fromkeys(range(100))
    standings[100] = waits("all_reduce (number 1 of default_pg)", 10.0)
    assert report(standings, 10.0).count("says nothing") == 8
    assert report(standings, 10.0).endswith("; and more")


def until(fulfilled: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not fulfilled():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_leaves_after_a_failure_leaves_word_and_the_first_word_counts() -> None:
    store = dist.HashStore()
    watchdogs = [Watchdog(store, rank, 3, print, every=0.01).start() for rank in range(3)]
    watchdogs[2].leave("RuntimeError: a defect")
    until(lambda: all(one.absent() for one in watchdogs[:2]))
    watchdogs[1].leave("RuntimeError: the connection broke")
    assert watchdogs[0].absent() == "rank 2 has left: RuntimeError: a defect"
    watchdogs[0].stop()


@pytest.mark.parametrize("gone", [0, 1])
def test_who_is_silent_counts_as_gone_only_where_this_process_is_to_stop(gone: int) -> None:
    store, stopping = dist.HashStore(), threading.Event()
    one = Watchdog(store, 1 - gone, 2, print, every=0.01, stopping=stopping.is_set).start()
    Watchdog(store, gone, 2, print, every=0.01).start().stop()
    silent = f"rank {gone} says nothing: it is gone, or stopped"
    until(lambda: one._heard_of(gone) is None)
    assert one.absent() == ""
    stopping.set()
    until(lambda: one.absent() == silent)
    one.stop()


def test_a_process_that_goes_on_alone_is_ended() -> None:
    store, said = dist.HashStore(), list[str]()
    watchdogs = [Watchdog(store, rank, 2, print, every=0.01) for rank in range(2)]
    watchdogs[0].start(said.append)
    watchdogs[1].start().leave("RuntimeError: a defect")
    until(lambda: bool(said))
    watchdogs[0].stop()
    assert said[0] == "rank 1 has left: RuntimeError: a defect"


def loiter(gate: Path) -> None:
    """Where the last rank stands until the gate is there."""
    while not gate.exists():
        time.sleep(0.05)


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    record_collectives()
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    group = dist.PrefixStore("group", store)
    dist.init_process_group("gloo", store=group, rank=rank, world_size=SIZE)
    said = folder / "said"

    def say(line: str) -> None:
        with said.open("a") as file:
            file.write(f"{rank}: {line}\n")

    watched = dist.PrefixStore("watchdog", store.clone())
    with Watchdog(watched, rank, SIZE, say, patience=0.5, every=0.1):
        values = torch.ones(3)
        dist.all_reduce(values)
        (folder / str(rank)).touch()
        if rank == SIZE - 1:
            loiter(folder / "gate")
        dist.all_reduce(values)
    assert values.tolist() == [9.0, 9.0, 9.0]
    dist.destroy_process_group()


@dataclass
class Started:
    processes: list[BaseProcess]
    folder: Path

    def until(self, fulfilled: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not fulfilled():
            assert time.monotonic() < end and all(p.exitcode is None for p in self.processes)
            time.sleep(0.05)

    @property
    def said(self) -> str:
        path = self.folder / "said"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["turnout.parallel.watchdog"])
    processes: list[BaseProcess] = [
        context.Process(target=work, args=(rank, store.port, tmp_path)) for rank in range(SIZE)
    ]
    for process in processes:
        process.start()
    try:
        yield Started(processes, tmp_path)
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.slow
def test_a_rank_that_loiters_and_one_that_is_stopped_are_named(started: Started) -> None:
    started.until(lambda: "loiter" in started.said)
    line = next(line for line in started.said.splitlines() if "loiter" in line)
    assert line.startswith("0: waiting for ")
    assert "ranks 0-1 in all_reduce (number 2 of default_pg)" in line
    assert "; rank 2 is at test_watchdog.py:" in line

    last = started.processes[-1].pid
    assert last is not None
    os.kill(last, signal.SIGSTOP)
    started.until(lambda: "rank 2 says nothing: it is gone, or stopped" in started.said)
    os.kill(last, signal.SIGCONT)
    (started.folder / "gate").touch()
    for process in started.processes:
        process.join(120)
    assert [process.exitcode for process in started.processes] == [0, 0, 0]
