"""Routing groups: what they are, and that they are never cut."""

import pytest
import torch

from turnout.config.errors import UserError
from turnout.moe import RoutingContext


def test_every_row_is_a_group_by_default():
    context = RoutingContext.of(torch.tensor([[True, True, False], [False, True, True]]))
    assert context.group.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert context.num_groups == 2
    # positions count real tokens: padding on the left moves nothing
    assert context.position.tolist() == [[0, 1, 1], [0, 0, 1]]


def test_groups_of_rows():
    context = RoutingContext.build(torch.ones(4, 2, dtype=torch.bool), rows=2)
    assert context.group[:, 0].tolist() == [0, 0, 1, 1]
    assert context.num_groups == 2


def test_a_cut_through_a_group_is_refused_with_the_valid_sizes():
    with pytest.raises(UserError, match=r"3 rows cuts a routing group of 2 rows.*2, 4, 6, 8"):
        RoutingContext.build(torch.ones(3, 2, dtype=torch.bool), rows=2)


def test_documents_are_groups_of_their_own():
    segment = torch.tensor([[1, 1, 2, 0], [1, 2, 3, 3]])
    context = RoutingContext.documents(segment > 0, segment, 3)
    assert context.group.tolist() == [[0, 0, 1, 0], [3, 4, 5, 5]]
    assert (context.num_groups, context.groups_per_block) == (6, 3)


def test_a_context_is_a_pytree():
    context = RoutingContext.of(torch.ones(2, 3, dtype=torch.bool))
    moved = torch.utils._pytree.tree_map(lambda leaf: leaf, context)
    assert moved.num_groups == 2 and torch.equal(moved.mask, context.mask)
