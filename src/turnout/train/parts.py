"""A run's tensors between one process and a checkpoint that all of them share."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from turnout.checkpoint.format import CheckpointError, Part
from turnout.checkpoint.read import match
from turnout.checkpoint.reader import Reader

# Where this process's block of a weight lies in the whole, or None where it holds none: from the
# weight's name, the block, and the dimension that the block lacks, if it is one of means.
PartOf = Callable[[str, Tensor, int | None], Part | None]


def whole(name: str, tensor: Tensor, without: int | None) -> Part | None:
    """One process holds all of every weight."""
    return Part.whole(tensor)


def fill(
    reader: Reader,
    prefix: str,
    targets: Mapping[str, Tensor],
    part_of: PartOf,
    what: str,
) -> None:
    """Read this process's blocks of what a checkpoint holds under a prefix, in place.

    Half-precision weights, as a conversion leaves them, fill those of float32, which loses
    nothing.

    Args:
        targets: what this process holds, by name behind the prefix.

    Raises:
        CheckpointError: the checkpoint holds other names, shapes or dtypes.
    """
    stored = reader.described()
    found = {
        name.removeprefix(prefix): _widened(tensor)
        for name, tensor in stored.items()
        if name.startswith(prefix)
    }
    parts = {name: part_of(name, tensor, None) for name, tensor in targets.items()}
    wanted = {
        name: found.get(name, targets[name]) if part is None else _described(part)
        for name, part in parts.items()
    }
    match(found, wanted, what)
    with torch.no_grad():
        for name, part in parts.items():
            if part is not None:
                part.tensor.copy_(reader.block(prefix + name, part.block))


def read_part(reader: Reader, name: str, part: Part) -> Tensor:
    """This process's block of a tensor, in its dtype; only the shape of ``part.tensor`` counts.

    Raises:
        CheckpointError: the checkpoint holds a tensor of another shape.
    """
    stored = reader.check_tensor(name).shape
    if stored != part.shape:
        raise CheckpointError(
            f"{reader.folder} belongs to another model: {name} is {list(stored)}, must be "
            f"{list(part.shape)}"
        )
    return reader.block(name, part.block)


def _described(part: Part) -> Tensor:
    return torch.empty(part.shape, dtype=part.tensor.dtype, device="meta")


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
