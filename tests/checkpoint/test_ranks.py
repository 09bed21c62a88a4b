"""Ranks that wait for a message of one that has left."""

import errno
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import FileStore, HashStore, Store

from tests.checkpoint.together import on_ranks
from turnout.checkpoint.index import CheckpointError
from turnout.checkpoint.ranks import Left, OverStore, Ranks

GONE = "rank 1 has left: RuntimeError: a defect"
LONG = timedelta(hours=1)


def say(ranks: OverStore) -> str:
    try:
        return ranks.consult(lambda: "here", lambda texts: texts)
    except Left as error:
        return f"Left: {error}"


def test_nobody_waits_for_a_rank_that_has_left() -> None:
    store = HashStore()

    def work(rank: int) -> str:
        return say(OverStore(store, rank, 3, LONG, lambda: GONE))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (0, 2))) == [f"Left: {GONE}"] * 2


def test_the_answer_of_the_first_rank_says_who_has_left() -> None:
    # Rank 2 has heard nothing of it itself.
    store = HashStore()

    def work(rank: int) -> str:
        gone = GONE if rank == 0 else ""
        return say(OverStore(store, rank, 3, LONG, lambda: gone))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (0, 2))) == [f"Left: {GONE}"] * 2


def test_what_a_rank_said_before_it_left_counts() -> None:
    store = HashStore()
    store.set("consult/1/1", json.dumps({"said": "done"}))
    ranks = OverStore(store, 0, 2, LONG, lambda: GONE)
    assert ranks.consult(lambda: "done", lambda texts: ["+".join(texts)] * 2) == "done+done"


def test_a_failure_that_all_agreed_on_names_its_rank_once() -> None:
    # As where a save in the background failed, and each rank finds that at its next step.
    def work(ranks: Ranks) -> None:
        def fails() -> str:
            if ranks.rank == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return ""

        try:
            ranks.consult(fails, lambda texts: texts)
        except CheckpointError as error:
            found = error

        def again() -> str:
            raise found

        ranks.consult(again, lambda texts: texts)

    results = on_ranks(3, work)
    assert [str(result) for result in results] == ["rank 1: No space left on device"] * 3


@pytest.mark.parametrize("kind", ["hash", "file"])
def test_a_rank_may_be_later_than_one_look_at_the_store(tmp_path: Path, kind: str) -> None:
    """Stores say differently that nothing has come yet."""

    def store() -> Store:
        return shared if kind == "hash" else FileStore(str(tmp_path / "store"), 2)

    def late() -> str:
        time.sleep(1.5)  # three looks
        return "second"

    shared = HashStore()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(OverStore(store(), 0, 2).consult, lambda: "first", lambda said: said)
        second = pool.submit(OverStore(store(), 1, 2).consult, late, lambda said: said)
        assert (first.result(), second.result()) == ("first", "second")
