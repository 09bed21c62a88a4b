"""What ranks must have in common, whichever machine they are on."""

import pytest

from tests.checkpoint.together import fine, on_ranks
from turnout.checkpoint.index import CheckpointError
from turnout.train.ranks import same


def test_ranks_that_found_the_same_go_on() -> None:
    facts = {"data.paths": "text with sha256 1", "train.dtype": "float32"}
    fine(on_ranks(3, lambda ranks: same(ranks, facts)))


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_machine_that_found_something_else_is_named(bad: int) -> None:
    # As where another build of Python has another standard library, or a processor no bfloat16.
    results = on_ranks(
        3,
        lambda ranks: same(
            ranks, {"data.paths": "a", "train.dtype": "f" if ranks.rank == bad else "b"}
        ),
    )
    assert {type(result) for result in results} == {CheckpointError}
    here, there = ("b", "f") if bad == 0 else ("f", "b")
    line = f"train.dtype: {here} on rank {bad or 1}, but {there} on rank 0; must be the same"
    assert all(str(result).startswith(line) for result in results)
