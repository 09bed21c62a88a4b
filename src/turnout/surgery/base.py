"""What every operation says: the new configuration, what each new tensor is made of, and whether
the function stays."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.convert.rules import BoundBy
from turnout.surgery.changes import Change

Rules = list[BoundBy[Change]]


@dataclass(frozen=True)
class Expectation:
    """Whether the function is to stay, and why; it is checked where it is.

    Attributes:
        why: one line, for people.
        back: the command that makes the old model of the new one, ``{turnout}`` for what the
            program is called by, ``{run}`` and ``{out}`` for the folders; empty where nothing does.
        notes: what else there is to know.
    """

    preserved: bool
    why: str
    back: str = ""
    notes: tuple[str, ...] = ()


class Surgery(ABC):
    """An operation, a frozen dataclass.

    Tensors for which it has no rule are taken over by their names. Old tensors of the second
    model and those behind it are named ``1:NAME`` and so on.

    Attributes:
        kind: its name on the command line.
    """

    kind: str

    @abstractmethod
    def run(self, old: RunConfig) -> RunConfig:
        """The new configuration.

        Raises:
            UserError: one line: what the model or the arguments cannot do.
        """

    @abstractmethod
    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        """What new tensors are made of, but for those that are taken over.

        Raises:
            UserError: ``new`` is not a model that this operation makes of ``old``.
        """

    @abstractmethod
    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        """Whether the function stays."""

    @abstractmethod
    def arguments(self) -> Mapping[str, Any]:
        """What it was asked to do, as plain data for the receipt."""

    @abstractmethod
    def old_labels(self) -> Sequence[int] | None:
        """By the label of a row of the new model that of the old one, for the labels that both
        know; None where labels stay what they are."""


def one(native: str, foreign: Sequence[str], operation: Change) -> BoundBy[Change]:
    """A rule for one new tensor."""
    return BoundBy((native,), tuple(foreign), operation)
