"""Turnout inside Hugging Face transformers: its experts, its routing, its sparse blocks."""

from turnout.integrations.transformers.experts import use

__all__ = ["use"]
