"""How long work on text is told to whoever waits for it."""

from abc import ABC, abstractmethod


class Progress(ABC):
    """What a build of the cache reports; the command line shows it as a bar or as lines."""

    @abstractmethod
    def begin(self, what: str, total: int) -> None:
        """Work on ``total`` bytes of text starts; 0 means that nobody knows how many."""

    @abstractmethod
    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""

    @abstractmethod
    def end(self) -> None:
        """The work begun last is done."""

    @abstractmethod
    def note(self, line: str) -> None:
        """One line that a person should see."""


class Silent(Progress):
    """Tells nobody."""

    def begin(self, what: str, total: int) -> None:
        """Nothing happens."""

    def advance(self, count: int) -> None:
        """Nothing happens."""

    def end(self) -> None:
        """Nothing happens."""

    def note(self, line: str) -> None:
        """Nothing happens."""
