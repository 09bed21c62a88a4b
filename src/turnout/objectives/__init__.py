"""What is minimised: objectives own the loss weights."""

from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.objectives.language import LanguageObjective, Lesson
from turnout.objectives.report import LossReport, Terms
from turnout.objectives.scopes import StepSums
from turnout.objectives.totals import StackTotals, Totals

__all__ = [
    "LanguageObjective",
    "Lesson",
    "LossReport",
    "StackTotals",
    "StepSums",
    "Terms",
    "Totals",
    "build",
]


def build(
    losses: LossConfig, model: ModelConfig, lesson: Lesson | None = None
) -> LanguageObjective:
    """The objective of a run, for causal language modelling and span corruption alike.

    Args:
        lesson: what a teacher adds to it.
    """
    return LanguageObjective(losses, model, lesson=lesson)
