"""Text to vocabulary ids and back: one abstract class and its kinds."""

from turnout.data.tokenizers.base import Tokenizer
from turnout.data.tokenizers.byte import ByteTokenizer

__all__ = ["ByteTokenizer", "Tokenizer"]
