"""The processes that torchrun started, from its environment to a process group."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from turnout.checkpoint.ranks import OverStore
from turnout.config.parallel import ParallelPlan
from turnout.parallel.mesh import Meshes
from turnout.parallel.ranks import ManyRanks
from turnout.parallel.watchdog import Watchdog, record_collectives
from turnout.train.stopping import StopRequest

TIMEOUT = timedelta(minutes=30)
_FOLDER = "turnout/folder"  # of all attempts


@dataclass(frozen=True)
class Address:
    """Where the processes find each other.

    Attributes:
        host, port: of the store through which they do.
        attempt: how often torchrun has restarted them.
        serves: whether the first rank has to open the store; torchrun opens one itself.
    """

    host: str
    port: int
    attempt: str = "0"
    serves: bool = False

    @staticmethod
    def of_environment() -> "Address":
        """As torchrun says."""
        return Address(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        )


@contextmanager
def joining(
    plan: ParallelPlan, group_rows: int, rank: int, address: Address | None = None
) -> Iterator[Callable[[], ManyRanks]]:
    """What joins the other ranks of ``plan``, whose sizes are numbers; every rank calls it, once.

    Where an error ends the block after that, the others get word: they may be waiting for a
    message, and not in a collective, which ends when this process does.
    """
    at = Address.of_environment() if address is None else address
    watchdogs: list[Watchdog] = []

    def connect() -> ManyRanks:
        ranks, watchdog = _connected_ranks(plan, group_rows, rank, at)
        watchdogs.append(watchdog)
        return ranks

    try:
        yield connect
    except BaseException as error:
        for watchdog in watchdogs:
            watchdog.leave(" ".join(f"{type(error).__name__}: {error}".split()))
        raise


def _connected_ranks(
    plan: ParallelPlan, group_rows: int, rank: int, at: Address
) -> tuple[ManyRanks, Watchdog]:
    """The ranks, and who watches them.

    A restarted run has to find no word of the run before: torchrun keeps its store, so that each
    attempt has names of its own in it.
    """
    record_collectives()
    serves = at.serves and rank == 0
    store = TCPStore(at.host, at.port, plan.ranks, is_master=serves, timeout=TIMEOUT)
    own = PrefixStore(f"turnout/{at.attempt}", store)
    dist.init_process_group(
        "gloo",
        store=PrefixStore("group", own),
        rank=rank,
        world_size=plan.ranks,
        timeout=TIMEOUT,
    )
    # FSDP warns of outputs that somebody may change in place: nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    # Of their own, for a thread may wait on them.
    told = PrefixStore("said", PrefixStore(f"turnout/{at.attempt}", _connected(at)))
    seen = PrefixStore("seen", PrefixStore(f"turnout/{at.attempt}", _connected(at)))
    request = StopRequest()
    watchdog = Watchdog(
        seen, rank, plan.ranks, _say, stopping=lambda: request.signal is not None
    ).start(partial(_leave, rank))
    messages = OverStore(told, rank, plan.ranks, absent=watchdog.absent)
    ranks = ManyRanks(Meshes.of(plan), group_rows, messages, watchdog.stop, request=request)
    return ranks, watchdog


def remember(folder: Path) -> None:
    """Leave word of the run's folder for the processes that torchrun starts if these fail."""
    at = Address.of_environment()
    if not at.serves:  # a store of our own ends with us
        _connected(at).set(_FOLDER, str(folder.absolute()))


def remembered() -> Path | None:
    """The folder of the run that these processes are to go on with."""
    at = Address.of_environment()
    store = None if at.serves else _connected(at)
    if store is None or not store.check([_FOLDER]):
        return None
    return Path(store.get(_FOLDER).decode())


def _connected(at: Address) -> TCPStore:
    return TCPStore(at.host, at.port, is_master=False, timeout=TIMEOUT)


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # where nobody reads it any more
        print(f"watchdog: {line}", file=sys.stderr, flush=True)


def _leave(rank: int, why: str) -> None:
    with suppress(OSError, ValueError):
        print(f"rank {rank} leaves: {why}", file=sys.stderr, flush=True)
    os._exit(2)
