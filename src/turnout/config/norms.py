"""How the norms of a model are made."""

from typing import Literal

NormName = Literal["rms", "layer"]
BIASED: tuple[NormName, ...] = ("layer",)  # mean and variance taken off, a bias added
