"""How many rows each rank sends to each expert, where no router has values to decide by.

All ranks of an expert axis are looked at together, so that what one sends another receives. Axes:
R ranks that share the experts out, E experts of the layer, T tokens of a trace, K choices.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final
from zlib import crc32

import numpy as np
from jaxtyping import Float64, Int64

from turnout.config.errors import UserError
from turnout.data.keys import permutation
from turnout.moe.record import RoutingRecord

Shares = Float64[np.ndarray, " E"]


@dataclass(frozen=True)
class Demand:
    """One sparse layer of one micro-batch, alike on every rank.

    Attributes:
        layer: its name.
        experts: E.
        tokens: of one rank.
        choices: experts that a token takes.
        slots: of an expert for the tokens of one rank; None for as many as needed.
    """

    layer: str
    experts: int
    tokens: int
    choices: int
    slots: int | None = None


class Load(ABC):
    """Says how tokens choose."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As it is asked for on the command line."""

    @abstractmethod
    def wanted(self, demand: Demand, ranks: int) -> Int64[np.ndarray, "R E"]:
        """Rows that each rank would send to each expert if none were full.

        Raises:
            UserError: nothing is known of this layer.
        """

    def sent(self, demand: Demand, ranks: int) -> Int64[np.ndarray, "R E"]:
        """Rows that each rank sends to each expert: those with a slot."""
        wanted = self.wanted(demand, ranks)
        return wanted if demand.slots is None else np.minimum(wanted, demand.slots)


@final
@dataclass(frozen=True)
class Zipf(Load):
    """Experts' shares of all assignments fall by place like ``1 / place ** exponent``; 0 is even.

    Which experts are popular differs by layer. Assignments stand in a line, by expert, and are
    dealt out to the ranks in turn: each rank sends ``tokens * choices`` of them, and to each expert
    as many as any other rank, or one more.
    """

    exponent: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 10:
            raise UserError(f"--load zipf:{self.exponent:g}: the exponent must be 0 to 10")

    @property
    def name(self) -> str:
        return f"zipf:{self.exponent:g}" if self.exponent else "uniform"

    def wanted(self, demand: Demand, ranks: int) -> Int64[np.ndarray, "R E"]:
        ends = np.cumsum(self._totals(demand, ranks))
        # Of places 0 .. end - 1 in the line those that leave the remainder ``rank``.
        dealt = (ends + (ranks - 1 - np.arange(ranks))[:, None]) // ranks
        return np.diff(dealt, prepend=0)

    def _totals(self, demand: Demand, ranks: int) -> Int64[np.ndarray, " E"]:
        """Assignments of each expert, of all ranks; no expert has a token twice."""
        rows = ranks * demand.tokens * demand.choices
        place = permutation(demand.experts, crc32(demand.layer.encode())) + 1.0
        weight = place**-self.exponent
        shares = _capped(weight / weight.sum(), 1.0 / demand.choices)
        ends = np.floor(np.cumsum(shares) * rows + 0.5).astype(np.int64)
        ends[-1] = rows
        return np.diff(ends, prepend=0)


@final
@dataclass(frozen=True)
class Recorded(Load):
    """What tokens of a record chose: each rank takes as many as it has, behind the last one's, and
    from the beginning again where the record ends.

    Attributes:
        layers: experts of each token [T, K] by layer, -1 for none.
    """

    path: str
    layers: Mapping[str, Int64[np.ndarray, "T K"]]

    @staticmethod
    def read(path: Path | str) -> "Recorded":
        """From what ``RoutingRecord.save`` wrote.

        Raises:
            UserError: it cannot be read.
        """
        record = RoutingRecord.load(path)
        tables = (layer.named.flatten(0, 1).numpy() for layer in record.layers)
        return Recorded(str(path), dict(zip(record.names, tables, strict=True)))

    @property
    def name(self) -> str:
        return self.path

    def wanted(self, demand: Demand, ranks: int) -> Int64[np.ndarray, "R E"]:
        known = self.layers.get(demand.layer)
        if known is None:
            raise UserError(
                f"--load {self.path}: holds no layer {demand.layer!r}, but "
                f"{', '.join(self.layers)}; record the model that is to be simulated"
            )
        if len(known) == 0:
            raise UserError(
                f"--load {self.path}: layer {demand.layer!r} has no tokens; record other text"
            )
        if known.shape[1] != demand.choices or known.max(initial=-1) >= demand.experts:
            raise UserError(
                f"--load {self.path}: layer {demand.layer!r} has {known.shape[1]} choices and "
                f"expert {known.max(initial=-1)}; must be {demand.choices} choices of "
                f"{demand.experts} experts"
            )
        found = np.zeros((ranks, demand.experts), dtype=np.int64)
        for rank in range(ranks):
            rows = np.arange(rank * demand.tokens, (rank + 1) * demand.tokens) % len(known)
            chosen = known[rows].ravel()
            found[rank] = np.bincount(chosen[chosen >= 0], minlength=demand.experts)
        return found


def load_of(text: str) -> Load:
    """``uniform``, ``zipf:EXPONENT`` or the path of a record.

    Raises:
        UserError: it is none of them.
    """
    if text == "uniform":
        return Zipf()
    kind, _, number = text.partition(":")
    if kind != "zipf":
        return Recorded.read(text)
    try:
        return Zipf(float(number or 1.0))
    except ValueError as error:
        raise UserError(f"--load {text}: must be zipf:EXPONENT, such as zipf:1.0") from error


def _capped(shares: Shares, most: float) -> Shares:
    """Shares of at most ``most``; what is above goes to the others in proportion."""
    full = np.zeros(len(shares), dtype=bool)
    while True:
        over = (shares > most * (1 + 1e-12)) & ~full
        if not over.any():
            return shares
        full |= over
        others = np.where(full, 0.0, shares)
        rest = (1.0 - most * full.sum()) / max(float(others.sum()), 1e-300)
        shares = np.where(full, most, others * rest)
