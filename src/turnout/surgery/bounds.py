"""Bounds of what is asked on the command line, checked before anything large is built."""

import math
from typing import Final

from turnout.config.errors import require

MOST_EXPERTS: Final = 2**16  # of a layer; the largest of the papers have 2,048 (2101.03961)


def finite(option: str, value: float) -> None:
    """Raises ConfigError unless a deviation is at least 0, and neither infinite nor no number."""
    require(0 <= value < math.inf, option, value, "at least 0 and finite")


def most_experts(option: str, value: int, experts: int) -> None:
    """Raises ConfigError where ``option`` makes more ``experts`` a layer than anybody can mean."""
    require(
        experts <= MOST_EXPERTS,
        option,
        value,
        f"such that a layer has at most {MOST_EXPERTS:,} experts, not {experts:,}",
    )
