"""The weights that a new run begins with, of a model that is there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.index import shortened
from turnout.config.start import StartConfig
from turnout.convert.api import Contents, contents
from turnout.models.base import Model
from turnout.train.state import model_tensors


@dataclass(frozen=True)
class Begun:
    """Where a run's weights came from.

    Attributes:
        path: of the other model; empty where all are fresh.
        filled: parameters and buffers taken from there.
        fresh: those that it does not have, or in another shape.
        unused: what it has and this model does not.
    """

    path: str = ""
    filled: Sequence[str] = ()
    fresh: Sequence[str] = ()
    unused: Sequence[str] = ()

    @property
    def line(self) -> str:
        """For people; nothing is left unloaded in silence."""
        if not self.path:
            return "fresh weights"
        parts = [f"{len(self.filled)} tensors of {self.path}"]
        parts += [f"fresh: {shortened(self.fresh)}"] if self.fresh else []
        parts += [f"not taken: {shortened(self.unused)}"] if self.unused else []
        return "; ".join(parts)


@torch.no_grad()
def begin(model: Model, start: StartConfig) -> Begun:
    """Fills ``model``, which has its first weights, as ``start`` says.

    Raises:
        UserError: there is no such model, it is damaged, or is not the one that is wanted.
    """
    if not start.path:
        return Begun()
    opened = contents(start.path)
    wanted = model_tensors(model)
    filled, unused = [], []
    for name, tensor in opened.tensors:
        into = wanted.get(name)
        if into is None or into.shape != tensor.shape:
            unused.append(f"{name} {list(tensor.shape)}")
            continue
        into.copy_(tensor)
        filled.append(name)
    fresh = sorted(wanted.keys() - set(filled))
    _check(start, opened, filled, fresh, unused)
    return Begun(start.path, tuple(filled), tuple(fresh), tuple(unused))


def _check(
    start: StartConfig,
    opened: Contents,
    filled: Sequence[str],
    fresh: Sequence[str],
    unused: Sequence[str],
) -> None:
    if start.weights == "all" and (fresh or unused):
        lacks = [f"it lacks {shortened(fresh)}"] if fresh else []
        lacks += [f"nothing takes its {shortened(unused)}"] if unused else []
        raise CheckpointError(
            f"start.path: {opened.folder} is of another model: {'; '.join(lacks)}; "
            "start.weights = 'shared' takes what both have"
        )
    if not filled:
        raise CheckpointError(
            f"start.path: {opened.folder} has no tensor of this model's names and shapes"
        )
