"""Pools of ranks, one of each size for all tests of this folder.

They end with its last test: the threads of their groups are never quite idle.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.distributed.harness import Pool


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
