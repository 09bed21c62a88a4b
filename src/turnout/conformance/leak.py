"""Does a token read its future? Change, cut and append, and see what earlier tokens got.

Axes: B rows, S positions, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MOVED = 1e-5  # of a row's largest output, in float32

Run = Callable[[Tensor], tuple[Float[Tensor, "B S D"], tuple[Tensor, ...]]]
"""From inputs [B, S, ..] to outputs and, where there are any, decisions [B, S, K] a layer."""


@dataclass(frozen=True)
class Leak:
    """Draws in which something before the place that changed was moved.

    Attributes:
        draws: how many were made.
        moved: in how many an earlier output or decision moved.
        largest: the largest move of an output, over the row's largest output.
    """

    draws: int
    moved: int
    largest: float

    def __add__(self, other: "Leak") -> "Leak":
        return Leak(
            self.draws + other.draws, self.moved + other.moved, max(self.largest, other.largest)
        )

    def text(self) -> str:
        """One line."""
        if not self.moved:
            return f"0 of {self.draws} draws moved anything earlier"
        return (
            f"{self.moved} of {self.draws} draws moved earlier tokens, by up to "
            f"{self.largest:.2g} of the largest output"
        )


@torch.no_grad()
def measure(run: Run, inputs: Tensor, replacement: Tensor) -> Leak:
    """Leaks of ``run``, one draw a row and place.

    At every place t, token t is exchanged for ``replacement``'s, the text is cut behind t, and
    once it is given one token less: outputs and decisions before must stay.

    Args:
        inputs: [B, S + 1, ..], one token to spare, which is appended.
        replacement: of the same shape, the tokens that come in.
    """
    length = inputs.shape[1] - 1
    y, decisions = run(inputs[:, :length].contiguous())
    scale = y.float().abs().amax((1, 2)).clamp(min=1e-12)
    total = Leak(0, 0, 0.0)
    for t in range(1, length):
        changed = inputs[:, :length].clone()
        changed[:, t] = replacement[:, t]
        others = [(changed, t), (inputs[:, : t + 1].contiguous(), t + 1)]
        if t == length - 1:
            others.append((inputs, length))
        moved = torch.zeros(len(inputs), dtype=torch.bool)
        largest = 0.0
        for other, end in others:
            seen, decided = run(other)
            gap = (seen[:, :end] - y[:, :end]).float().abs().amax((1, 2)) / scale
            moved |= ~(gap <= MOVED)
            largest = max(largest, float(gap.max()))
            for before, after in zip(decisions, decided, strict=True):
                moved |= (after[:, :end] != before[:, :end]).flatten(1).any(1)
        total = total + Leak(len(inputs), int(moved.sum()), largest)
    return total
