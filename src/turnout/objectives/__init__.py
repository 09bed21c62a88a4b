"""What is minimised: objectives own the loss weights."""

from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.objectives.language import LanguageObjective
from turnout.objectives.report import LossReport, Terms
from turnout.objectives.scopes import StepSums
from turnout.objectives.totals import StackTotals, Totals

__all__ = [
    "LanguageObjective",
    "LossReport",
    "StackTotals",
    "StepSums",
    "Terms",
    "Totals",
    "build",
]


def build(losses: LossConfig, model: ModelConfig) -> LanguageObjective:
    """The objective of a run, for causal language modelling and span corruption alike."""
    return LanguageObjective(losses, model)
