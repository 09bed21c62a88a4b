"""The checkpoints of a run as they are written: one at a time, maybe behind the training's back."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

from turnout.checkpoint.saver import Saver
from turnout.train.hooks.base import Hook


@final
class Saves:
    """Tells the hooks of each checkpoint when it is complete.

    Attributes:
        saver: writes them.
    """

    def __init__(self, saver: Saver, hooks: Sequence[Hook]) -> None:
        self.saver = saver
        self._hooks = hooks
        self._begun: tuple[int, Path] | None = None

    def begun(self, step: int, folder: Path) -> None:
        """The checkpoint of a step is being written, or is complete already."""
        self._begun = step, folder
        self.look()

    def look(self) -> None:
        """Once a step; raises what a save in the background failed with."""
        self.saver.check()
        if not self.saver.busy:
            self._tell()

    def settle(self) -> None:
        """Returns when nothing is being written; raises what ``look`` does."""
        self.saver.wait()
        self._tell()

    def _tell(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            for hook in self._hooks:
                hook.on_save(*begun)
