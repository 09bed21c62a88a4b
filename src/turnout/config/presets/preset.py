"""What a preset is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from turnout.config.train import RunConfig

ObjectiveKind = Literal["causal", "span"]


@dataclass(frozen=True)
class Preset:
    """A named run. ``objectives`` are those it can be built for, the default first."""

    name: str
    summary: str
    build: Callable[[ObjectiveKind], RunConfig]
    objectives: tuple[ObjectiveKind, ...]
