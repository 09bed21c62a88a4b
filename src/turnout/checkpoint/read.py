"""Whole checkpoints, and whether they belong to a model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from turnout.checkpoint.format import Checkpoint, CheckpointError, dtype_name
from turnout.checkpoint.index import load_index, load_meta, shortened
from turnout.checkpoint.reader import Reader

__all__ = ["load", "load_index", "load_meta", "match", "shortened"]


def load(folder: Path) -> Checkpoint:
    """All tensors of a checkpoint, assembled from their pieces.

    Raises:
        CheckpointError: one line that names the file and what is wrong with it.
    """
    reader = Reader(Path(folder))
    reader.check()
    tensors = {name: reader.tensor(name) for name in reader.index.tensors}
    return Checkpoint(tensors, dict(reader.index.meta))


def match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Refuse unless both hold the same names, shapes and dtypes.

    Raises:
        CheckpointError: one line with both lists, shortened: this is another model's checkpoint.
    """
    unused = sorted(found.keys() - wanted.keys())
    unfilled = sorted(wanted.keys() - found.keys())
    if unused or unfilled:
        raise CheckpointError(
            f"{what} belongs to another model: it has {shortened(unused)} which this model has "
            f"not, and lacks {shortened(unfilled)}"
        )
    wrong = [
        f"{name} is {_describe(found[name])}, must be {_describe(wanted[name])}"
        for name in sorted(wanted)
        if found[name].shape != wanted[name].shape or found[name].dtype != wanted[name].dtype
    ]
    if wrong:
        raise CheckpointError(f"{what} belongs to another model: {shortened(wrong)}")


def _describe(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
