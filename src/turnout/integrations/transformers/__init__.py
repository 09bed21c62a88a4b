"""Turnout inside Hugging Face transformers: its experts, its routing, its sparse blocks."""

from turnout.integrations.transformers.capture import Capture, capture
from turnout.integrations.transformers.experts import use
from turnout.integrations.transformers.replace import (
    ReplacedBlock,
    Replacement,
    put_back,
    replace_moe,
    statistics,
)
from turnout.integrations.transformers.subjects import subjects

__all__ = [
    "Capture",
    "ReplacedBlock",
    "Replacement",
    "capture",
    "put_back",
    "replace_moe",
    "statistics",
    "subjects",
    "use",
]
