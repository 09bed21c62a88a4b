"""Turnout inside Hugging Face transformers: its experts, its routing, its sparse blocks."""

from turnout.integrations.transformers.capture import Capture, capture
from turnout.integrations.transformers.experts import use
from turnout.integrations.transformers.subjects import subjects

__all__ = ["Capture", "capture", "subjects", "use"]
