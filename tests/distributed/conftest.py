"""Pools of ranks, one of each size for all tests of this folder.

They end with its last test: the threads of their groups are never quite idle.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.distributed.harness import Pool
from tests.train.conftest import tiny_run as tiny_run  # a fixture, used by its name
from turnout.config.optimizers import AdamWConfig
from turnout.config.train import RunConfig


@pytest.fixture(scope="package")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Pool]]:
    """The pool of so many ranks."""
    pools: dict[int, Pool] = {}

    def of(size: int) -> Pool:
        if size in pools and pools[size].broken:
            pools.pop(size).stop()
        if size not in pools:
            pools[size] = Pool.start(size, tmp_path_factory.mktemp("group") / "store")
        return pools[size]

    yield of
    for pool in pools.values():
        pool.stop()


@pytest.fixture
def plain_run(tiny_run: RunConfig) -> RunConfig:
    """Without dropout, which each rank draws for itself; an epsilon above what rounding leaves."""
    return replace(
        tiny_run,
        model=replace(tiny_run.model, dropout=0.0),
        optimizer=AdamWConfig(epsilon=1e-4, weight_decay=0.1),
        train=replace(tiny_run.train, average=0.5),
    )
