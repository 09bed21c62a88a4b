"""Blocks: what they share, whether they fill a tensor, and the runs that files hold."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.together import box, cut, partition
from turnout.checkpoint.blocks import Block, fault_of, runs

SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)


@settings(max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_a_partition_has_no_fault_and_less_or_more_has(
    data: st.DataObject, shape: tuple[int, ...]
) -> None:
    blocks = partition(data, shape)
    assert fault_of(shape, blocks) is None
    gone = data.draw(st.integers(0, len(blocks) - 1))
    assert "do not fill" in str(fault_of(shape, blocks[:gone] + blocks[gone + 1 :]))
    again = box(data, shape)
    if again.size:
        assert "overlap" in str(fault_of(shape, [*blocks, again]))


@settings(max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_shared_is_what_a_mask_says(data: st.DataObject, shape: tuple[int, ...]) -> None:
    one, two = box(data, shape), box(data, shape)
    masks = []
    for block in (one, two):
        mask = torch.zeros(shape, dtype=torch.bool)
        cut(mask, block).fill_(True)
        masks.append(mask)
    shared = one.shared(two)
    assert int((masks[0] & masks[1]).sum()) == (0 if shared is None else shared.size)
    if shared is not None:
        assert bool(cut(masks[0] & masks[1], shared).all())


@settings(max_examples=60)
@given(shape=SHAPES, most=st.integers(0, 40))
def test_runs_are_the_entries_in_order(shape: tuple[int, ...], most: int) -> None:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    found = [cut(whole, block) for block in runs(shape, most)]
    assert torch.equal(torch.cat([part.flatten() for part in found]), whole.flatten())
    assert all(part.numel() <= max(most, 1) for part in found)


@pytest.mark.parametrize(
    ("blocks", "fault"),
    [
        ([((0, 0), (2, 3)), ((2, 0), (2, 3))], None),
        ([((0, 0), (2, 3)), ((3, 0), (1, 3))], r"3 of 12 entries are in none"),
        ([((0, 0), (2, 3)), ((1, 0), (3, 3))], r"[0:2, 0:3] and [1:4, 0:3] that overlap"),
        ([((0, 0), (2, 3)), ((1, 0), (2, 3))], r"that overlap and leave a hole"),
        ([((0, 0), (2, 3)), ((2, 0), (2, 4))], r"a piece [2:4, 0:4] outside its shape [4, 3]"),
        ([((0, 0), (2, 3)), ((2,), (2,))], r"a piece [2:4] outside its shape [4, 3]"),
        ([], r"12 of 12 entries are in none"),
    ],
)
def test_faults_by_hand(
    blocks: list[tuple[tuple[int, ...], tuple[int, ...]]], fault: str | None
) -> None:
    found = fault_of((4, 3), [Block(offset, shape) for offset, shape in blocks])
    assert found is None if fault is None else fault in str(found)


def test_scalars_and_tensors_of_nothing() -> None:
    assert fault_of((), [Block((), ())]) is None
    assert "overlap" in str(fault_of((), [Block((), ()), Block((), ())]))
    assert "do not fill" in str(fault_of((), []))
    assert fault_of((0, 5), [Block((0, 0), (0, 5))]) is None
    assert fault_of((0, 5), []) == "has no piece"


def test_the_blocks_of_a_large_mesh_are_compared_quickly() -> None:
    """A grid of 64 x 64: with all pairs there were eight million to compare."""
    grid = [Block((i, j), (1, 1)) for i, j in itertools.product(range(64), range(64))]
    compared = [0]

    class Counted(Block):
        def shared(self, other: Block) -> Block | None:
            compared[0] += 1
            return Block.shared(self, other)

    assert fault_of((64, 64), [Counted(block.offset, block.shape) for block in grid]) is None
    assert compared[0] <= 64 * 4096
