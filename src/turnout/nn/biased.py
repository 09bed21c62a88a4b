"""A bias of the logits beside what may be read.

Axes: B batch, H heads, Q queries, K keys.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from turnout.pytree import pytree


@final
@pytree()
@dataclass(frozen=True)
class Biased:
    """Both apart: they are much smaller than what is added to the logits of each row.

    Attributes:
        bias: the same for all rows.
        allowed: True where a query may read a key, the same for all heads.
    """

    bias: Float[Tensor, "1 H Q K"]
    allowed: Bool[Tensor, "B 1 Q K"]

    def merged(self, dtype: torch.dtype) -> Float[Tensor, "B H Q K"]:
        """The bias, minus infinity where nothing may be read: what is added to the logits."""
        return torch.where(self.allowed, self.bias.to(dtype), -torch.inf)


Mask = Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B H Q K"] | Biased
"""What a query may read: True there; or a bias, merged or not."""


def in_one(mask: Mask, dtype: torch.dtype) -> Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B H Q K"]:
    """As a kernel takes it whose queries are of ``dtype``."""
    if isinstance(mask, Biased):
        return mask.merged(dtype)
    return mask if mask.dtype == torch.bool else mask.to(dtype)
