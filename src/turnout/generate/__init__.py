"""Text from a model: greedy, sampled or by beam search, many prompts at once."""

from turnout.config.generation import GenerateOptions
from turnout.generate.loop import generate, stream
from turnout.generate.text import Piece, generate_text, stream_text

__all__ = ["GenerateOptions", "Piece", "generate", "generate_text", "stream", "stream_text"]
