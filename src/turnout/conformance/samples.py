"""Inputs that the kit feeds: rows of unit normal states with all that a router may read.

Axes: B batch, P some of its rows, S sequence, W the same padded, D width.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.moe.context import RoutingContext

ROWS, LENGTH, VOCABULARY = 4, 16, 64


def states(
    d_model: int, rows: int = ROWS, length: int = LENGTH, seed: int = 0
) -> Float[Tensor, "B S D"]:
    """Unit normal hidden states."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, d_model, generator=generator)


def full(rows: int = ROWS, length: int = LENGTH) -> Bool[Tensor, "B S"]:
    """No padding."""
    return torch.ones(rows, length, dtype=torch.bool)


def ragged(rows: int = ROWS, length: int = LENGTH) -> Bool[Tensor, "B S"]:
    """Right padding: row i ends 3 i tokens early, the last at one token at least."""
    ends = torch.tensor([max(length - 3 * row, 1) for row in range(rows)])
    return torch.arange(length) < ends.unsqueeze(1)


def context(
    mask: Bool[Tensor, "B S"], *, first_row: int = 0, salt: int = 0, progress: float = 0.5
) -> RoutingContext:
    """A context whose keys, ids and labels are those of rows ``first_row ..``.

    Ids depend on the row and on the position among real tokens, so that padding moves none.
    """
    rows = torch.arange(first_row, first_row + mask.shape[0])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    ids = _ids(rows, position)
    before = torch.where(position > 0, _ids(rows, (position - 1).clamp(min=0)), -1)
    return RoutingContext.build(
        mask,
        keys=rows * 104_729 + 17 + salt,
        token_ids=torch.where(mask, ids, 0),
        previous_ids=torch.where(mask, before, -1),
        labels=rows % 2,
        progress=progress,
    )


def _ids(rows: Int[Tensor, " B"], position: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    return (rows.unsqueeze(1) * 31 + position * 7 + position // 3) % VOCABULARY


def part(
    x: Float[Tensor, "B S D"], whole: RoutingContext, rows: slice
) -> tuple[Float[Tensor, "P S D"], RoutingContext]:
    """Some rows of a batch, each with its own keys and ids."""
    mask = whole.mask[rows]
    made = context(mask, first_row=rows.start)
    return x[rows], replace(made, keys=whole.keys[rows], progress=whole.progress)


def shifted(
    x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"], left: int, right: int
) -> tuple[Float[Tensor, "B W D"], Bool[Tensor, "B W"]]:
    """The same rows with more padding on either side; it holds NaN, which must not spread."""
    wide = F.pad(x, (0, 0, left, right), value=torch.nan)
    return wide, F.pad(mask, (left, right), value=False)
