"""How a tensor of the new model is made of tensors of the old one: each is an operation of the rule
engine of ``convert``, in the one direction that surgery has.

Axes: E old experts, N new experts, I inputs, O outputs, F hidden width.
"""

import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from turnout.convert.operations import Making

Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Slot:
    """A tensor of the optimiser's state: by which name the old one goes, and what is done to it."""

    old: str
    change: "Change"


class Change(Making):
    """What surgery does to a tensor, and to the optimiser's state of it."""

    @abstractmethod
    def slot(self, key: str) -> Slot | None:
        """How the state that is called ``key`` is made (``exp_avg``, ``exp_avg_sq`` of AdamW;
        ``square``, ``row``, ``column`` of Adafactor); None where none can be."""


@dataclass(frozen=True)
class Blend:
    """A new expert: a weighted sum of old ones; of one with weight 1 a copy, bit for bit; of none
    a fresh one.

    Attributes:
        part: which share of their hidden units, where experts are split.
        noisy: whether noise is added.
    """

    experts: tuple[tuple[int, float], ...]
    part: int = 0
    noisy: bool = False

    @staticmethod
    def copy(expert: int, part: int = 0, noisy: bool = False) -> "Blend":
        return Blend(((expert, 1.0),), part, noisy)

    @staticmethod
    def mean(weights: Iterable[tuple[int, float]]) -> "Blend":
        """Weights are divided by their sum; all count the same where it is 0."""
        given = tuple(weights)
        total = sum(weight for _, weight in given)
        if total <= 0:
            return Blend(tuple((expert, 1 / len(given)) for expert, _ in given))
        return Blend(tuple((expert, weight / total) for expert, weight in given))


@final
@dataclass(frozen=True)
class Remade(Change):
    """A tensor of all experts [N, ..] from that of the old ones [E, ..], or from one of each dense
    network, where matrices are transposed ([O, I] to [I, O]).

    Attributes:
        parts: into how many shares the hidden units are cut, along axis ``hidden`` of one expert.
        scale: what the copies are multiplied by; narrow ones become float32 where that rounds.
        noise: standard deviation of what is added, relative to that of the copy.
        by_expert: whether it is an expert's and not a router's, of which Adafactor keeps a
            mean over all experts.
        draw: gives a tensor [N, ..] whose rows the fresh experts take.
    """

    blends: tuple[Blend, ...]
    parts: int = 1
    hidden: int | None = None
    scale: float = 1.0
    noise: float = 0.0
    seed: int = 0
    dense: bool = False
    by_expert: bool = True
    draw: Draw | None = field(default=None, compare=False)

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        old = self._stack(foreign)
        fresh = old
        if self.draw is not None and not old.is_meta and self._has_fresh:
            fresh = self.draw().to(old)
        rows = [
            self._row(old, blend, number) if blend.experts else fresh[0 if old.is_meta else number]
            for number, blend in enumerate(self.blends)
        ]
        return [torch.stack(rows)]

    def slot(self, key: str) -> Slot | None:
        if self._has_fresh:
            return None
        plain = replace(self, scale=1.0, noise=0.0)
        if key not in ("row", "column"):
            return Slot(key, plain)
        if not self.by_expert:
            return Slot(key, plain) if key == "row" else Slot(key, Kept())
        axis = 0 if key == "row" else 1
        other = {"row": "column", "column": "row"}[key]  # which a transposition exchanges
        hidden = 0 if self.hidden == axis else None
        return Slot(other if self.dense else key, replace(plain, hidden=hidden))

    @property
    def _has_fresh(self) -> bool:
        return any(not blend.experts for blend in self.blends)

    def _stack(self, foreign: Iterable[Tensor]) -> Tensor:
        if not self.dense:
            (old,) = foreign
            return old
        return torch.stack([each.T if each.dim() == 2 else each for each in foreign])

    def _row(self, old: Tensor, blend: Blend, number: int) -> Tensor:
        row = blended(old, blend)
        if self.parts > 1 and self.hidden is not None:
            row = row.chunk(self.parts, dim=self.hidden)[blend.part]
        if self.scale != 1.0:
            # Exact in any width where the scale is a power of two, and rounded elsewhere.
            exact = math.frexp(self.scale)[0] == 0.5
            row = (row if exact else row.to(wide(row.dtype))) * self.scale
        if not (blend.noisy and self.noise) or row.is_meta:
            return row
        # The deviation about zero: that of a bias of zeros is 0, and it stays what it is.
        deviation = float(row.double().square().mean().sqrt())
        generator = torch.Generator().manual_seed(seed_of(self.seed, str(number)))
        draw = torch.randn(row.shape, generator=generator, dtype=torch.float32)
        return (row.float() + self.noise * deviation * draw).to(row.dtype)


@final
@dataclass(frozen=True)
class Single(Change):
    """A dense network's tensor from that of all experts; matrices are transposed."""

    blend: Blend

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        (old,) = foreign
        found = blended(old, self.blend)
        return [found.T.contiguous() if found.dim() == 2 else found]

    def slot(self, key: str) -> Slot | None:
        other = {"row": "column", "column": "row"}
        return Slot(other.get(key, key), self)


@final
@dataclass(frozen=True)
class Kept(Change):
    """One tensor as it is."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return list(foreign)

    def slot(self, key: str) -> Slot | None:
        return Slot(key, self)


@final
@dataclass(frozen=True)
class Mean(Change):
    """The mean of one tensor of each model, in float64, rounded once. Integers, as in tables of
    hashes, are those of the first."""

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        tensors = iter(foreign)
        first = next(tensors)
        total = first.double()
        for each in tensors:
            total = total + each.double()
        return [(total / count).to(first.dtype) if first.is_floating_point() else first]

    def slot(self, key: str) -> Slot | None:
        return None


@final
@dataclass(frozen=True)
class Below(Change):
    """A bias on scores in (0, 1), such as DeepSeek-V3's, for ``experts`` in all: of those that are
    added it is 1 below the least, so that none is chosen before all old ones."""

    experts: int

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        (old,) = foreign
        added = (old.min() - 1.0).expand(self.experts - old.shape[0])
        return [torch.cat([old, added])]

    def slot(self, key: str) -> Slot | None:
        return None


@final
@dataclass(frozen=True)
class Drawn(Change):
    """A tensor that is made of none."""

    draw: Draw = field(compare=False)

    def to_native(self, foreign: Iterable[Tensor], count: int) -> list[Tensor]:
        return [self.draw()]

    def slot(self, key: str) -> Slot | None:
        return None


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(dtype, torch.float32)


def blended(old: Tensor, blend: Blend) -> Tensor:
    """The weighted sum of entries of the first axis, in float64 and rounded once, so that the mean
    of equal experts is what they are."""
    if len(blend.experts) == 1 and blend.experts[0][1] == 1.0:
        return old[blend.experts[0][0]]
    total = torch.zeros_like(old[0], dtype=torch.float64)
    for expert, weight in blend.experts:
        total = total + weight * old[expert].double()
    return total.to(old.dtype)


def seed_of(seed: int, name: str) -> int:
    """A seed of its own for each name, the same on every machine."""
    return zlib.crc32(f"{seed} {name}".encode())
