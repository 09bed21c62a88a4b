"""Two ways to put assignments in the order of their experts, by hand and against each other."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from turnout.moe.dispatch.sorted import compared, sorted_by


def test_by_hand():
    """Experts 2, 0, 2, none, 0 of three: assignments 1 and 4 first, then 0 and 2, then 3."""
    for way in (sorted_by, compared):
        order, row, ends = way(torch.tensor([2, 0, 2, 3, 0]), 3)
        assert order.tolist() == [1, 4, 0, 2, 3]
        assert row.tolist() == [2, 0, 3, 4, 1]
        assert ends.tolist() == [2, 2, 4] and ends.dtype == torch.int32


@given(st.integers(1, 6).flatmap(lambda e: st.tuples(st.just(e), st.lists(st.integers(0, e)))))
def test_they_agree(case):
    experts, chosen = case
    expert = torch.tensor(chosen, dtype=torch.int64)
    for one, other in zip(sorted_by(expert, experts), compared(expert, experts), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
