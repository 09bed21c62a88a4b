"""Gloo ranks that are started once and then do one job after another.

Starting a process costs seconds, most of them for importing torch; a job of theirs, milliseconds.
A job is a function of a module: each rank calls it with its arguments and sends back what it
returns, or what it raised.
"""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 300  # the most that a job may take: a hang fails, it does not wait for ever


@dataclass
class Pool:
    """Ranks of one gloo group; ``broken`` after a job that failed, for some may still be in it."""

    processes: list[BaseProcess]
    pipes: list[Connection]
    broken: bool = False

    @staticmethod
    def start(size: int, store: Path) -> "Pool":
        """``size`` new processes, which meet at the file ``store``."""
        context = mp.get_context("spawn")
        pairs = [context.Pipe() for _ in range(size)]
        processes = [
            context.Process(target=_serve, args=(rank, size, str(store), pairs[rank][1]))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        return Pool(list(processes), [pair[0] for pair in pairs])

    def run(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """What every rank returns, in order.

        Raises:
            AssertionError: a rank raised something, or did not answer in time.
        """
        for pipe in self.pipes:
            pipe.send((job, args))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            self.broken = True
            assert pipe.poll(SECONDS), f"rank {rank} hangs in {job.__name__}{args}"
            failed, value = pipe.recv()
            assert not failed, f"rank {rank} in {job.__name__}:\n{value}"
            answers.append(value)
        self.broken = False
        return answers

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    while True:
        job, args = pipe.recv()
        try:
            pipe.send((False, job(*args)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
