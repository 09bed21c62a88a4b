"""Several sources in one run, and how often each is read."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from turnout.config.errors import require
from turnout.config.objective import ObjectiveConfig

_NAME = re.compile(r"\w+")


@dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture.

    ``paths`` are as ``data.paths``. Without an ``objective`` the source takes the run's. A
    ``weight`` is its share relative to the other sources' weights.
    """

    name: str
    paths: tuple[str, ...] = ()
    objective: ObjectiveConfig | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        require(
            _NAME.fullmatch(self.name) is not None,
            "source.name",
            self.name,
            "letters, digits and '_', at least one",
        )
        require(
            self.weight is None or 0 < self.weight < math.inf,
            "source.weight",
            self.weight,
            "above 0",
            "leave out a source that is not wanted",
        )


@dataclass(frozen=True)
class MixtureConfig:
    """Source i, which has n_i rows, is read at a rate proportional to ``min(n_i, cap)^(1 / T)``
    with T the ``temperature`` (T5, 1910.10683, section 3.5.2), or to its weight where there are
    weights. Each ``block`` of rows holds every source's share exactly.
    """

    sources: tuple[SourceConfig, ...]
    temperature: float = 1.0
    cap: int | None = None
    block: int = 1024

    def __post_init__(self) -> None:
        require(bool(self.sources), "mixture.sources", [], "a list of at least one source")
        counts = Counter(source.name for source in self.sources)
        twice = [name for name, count in counts.items() if count > 1]
        require(not twice, "mixture.sources", twice, "of different names")
        require(
            1 <= self.temperature < math.inf,
            "mixture.temperature",
            self.temperature,
            "at least 1",
            "1 is proportional to the rows of the sources; higher is more even",
        )
        require(self.cap is None or self.cap >= 1, "mixture.cap", self.cap, "at least 1, or none")
        require(
            len(self.sources) <= self.block <= 2**20,
            "mixture.block",
            self.block,
            f"in {len(self.sources)} .. {2**20}, a row of every source at least",
        )
        self._check_weights()

    def _check_weights(self) -> None:
        without = [source.name for source in self.sources if source.weight is None]
        if len(without) == len(self.sources):
            return
        require(
            not without,
            "mixture.sources",
            without,
            "given a weight as well, since another source has one",
            "give all of them a weight, or none",
        )
        for name, ignored in (("temperature", self.temperature != 1), ("cap", self.cap)):
            require(
                not ignored,
                f"mixture.{name}",
                getattr(self, name),
                "left out where the sources have weights",
                "weights are the rates themselves",
            )
