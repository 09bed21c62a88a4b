"""Text from a model: greedy, sampled or by beam search, many prompts at once."""

from turnout.config.generation import GenerateOptions
from turnout.generate.loop import generate, stream

__all__ = ["GenerateOptions", "generate", "stream"]
