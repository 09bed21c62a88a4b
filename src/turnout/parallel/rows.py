"""A rank's rows of a batch. Axes: B batch, S sequence."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree

from turnout.data.batch import Batch


def own_rows(batch: Batch, index: int, ranks: int, *, group: int = 1, multiple: int = 1) -> Batch:
    """The rows of rank ``index`` of ``ranks``, one behind the other, as many for each rank.

    Where rows do not come out even the last ranks get rows of padding, which count for nothing.

    Args:
        group: rows that stay together.
        multiple: what the length of the rows is filled up to a multiple of, with padding.
    """
    rows = batch.targets.shape[0]
    each = -(-rows // (group * ranks)) * group
    missing = each * ranks - rows
    if missing and batch.labels is not None:
        more = batch.labels[-1:].expand(missing)
        batch = replace(batch, labels=torch.cat((batch.labels, more)))

    def part(tensor: object) -> object:
        return _part(tensor, each, index, ranks, multiple) if torch.is_tensor(tensor) else tensor

    own: Batch = _pytree.tree_map(part, batch)
    return own


def _part(tensor: Tensor, each: int, index: int, ranks: int, multiple: int) -> Tensor:
    missing = each * ranks - tensor.shape[0]
    last = (0, -tensor.shape[1] % multiple) if tensor.dim() > 1 else ()
    filled = F.pad(tensor, (*last, 0, missing)) if missing or any(last) else tensor
    return filled.narrow(0, index * each, each)
