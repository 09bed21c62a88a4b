"""Turnout models in EleutherAI's lm-evaluation-harness, under the name ``turnout``."""

from turnout.integrations.lm_eval.adapter import NAME, TurnoutLM

__all__ = ["NAME", "TurnoutLM"]
