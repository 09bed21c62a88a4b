"""What a display must do to follow a fetch."""

from abc import ABC, abstractmethod


class Progress(ABC):
    """Follows one step after another."""

    @abstractmethod
    def begin(self, label: str, total: int) -> None:
        """A step begins that takes ``total`` bytes; 0 where that is not known."""

    @abstractmethod
    def update(self, done: int) -> None:
        """So many bytes of the step are done."""

    @abstractmethod
    def say(self, line: str) -> None:
        """The step ended, or something is to be told."""
