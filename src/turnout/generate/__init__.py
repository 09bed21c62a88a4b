"""Text from a model: greedy or sampled, many prompts at once."""

from turnout.config.generation import GenerateOptions
from turnout.generate.loop import generate

__all__ = ["GenerateOptions", "generate"]
