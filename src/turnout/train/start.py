"""The weights that a new run begins with, of a model that is there."""

from dataclasses import dataclass, field

from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.index import shortened
from turnout.config.start import StartConfig
from turnout.convert.api import Contents, Filled, contents, fill
from turnout.models.base import Model


@dataclass(frozen=True)
class Begun:
    """Where a run's weights came from.

    Attributes:
        path: of the other model; empty where all are fresh.
        found: what was taken from there.
    """

    path: str = ""
    found: Filled = field(default_factory=Filled)

    @property
    def line(self) -> str:
        """For people; nothing is left unloaded in silence."""
        if not self.path:
            return "fresh weights"
        parts = [f"{len(self.found.filled)} tensors of {self.path}"]
        parts += [f"fresh: {shortened(self.found.fresh)}"] if self.found.fresh else []
        parts += [f"not taken: {shortened(self.found.unused)}"] if self.found.unused else []
        return "; ".join(parts)


def begin(model: Model, start: StartConfig) -> Begun:
    """Fills ``model``, which has its first weights, as ``start`` says.

    Raises:
        UserError: there is no such model, it is damaged, or is not the one that is wanted.
    """
    if not start.path:
        return Begun()
    opened = contents(start.path)
    found = fill(model, opened.tensors)
    _check(start, opened, found)
    return Begun(start.path, found)


def _check(start: StartConfig, opened: Contents, found: Filled) -> None:
    if start.weights == "all" and (found.fresh or found.unused):
        lacks = [f"it lacks {shortened(found.fresh)}"] if found.fresh else []
        lacks += [f"nothing takes its {shortened(found.unused)}"] if found.unused else []
        raise CheckpointError(
            f"start.path: {opened.folder} is of another model: {'; '.join(lacks)}; "
            "start.weights = 'shared' takes what both have"
        )
    if not found.filled:
        raise CheckpointError(
            f"start.path: {opened.folder} has no tensor of this model's names and shapes"
        )
