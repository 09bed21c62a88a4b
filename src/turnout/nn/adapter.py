"""What low-rank adapters of matrices are (LoRA, Hu et al. 2021, 2106.09685).

Axes: N rows, I inputs, O outputs, R rank, E experts.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.nn.init import matrix_normal_

MARK = "_lora"  # behind the name of a matrix stands its adapter


class Adapter(nn.Module, ABC):
    """Adds ``scale * B A x`` to what a frozen matrix makes of a row; section 4.1, equation 3.

    The matrix W + scale B A is never made while training: rows pass A, of few outputs, and then B.
    Both are float32 and cast to the dtype of the rows. They lie as the matrix does: beside [O, I]
    ``a`` is [R, I] and ``b`` [O, R]; beside stacked experts' [E, I, O] they are [E, I, R] and
    [E, R, O], an adapter for each expert.

    Attributes:
        scale: alpha over the rank.
    """

    def __init__(
        self,
        a: tuple[int, ...],
        b: tuple[int, ...],
        *,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(a))
        self.b = nn.Parameter(torch.empty(b))

    @property
    @abstractmethod
    def rank(self) -> int:
        """R."""

    @abstractmethod
    def along(self, dim: int) -> tuple[str, ...]:
        """Which of ``a`` and ``b`` have the dimension ``dim`` of the matrix, under that number."""

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """A as other matrices start, B zero: the function is at first that without an adapter."""
        matrix_normal_(self.a, generator)
        nn.init.zeros_(self.b)

    def delta(self) -> Float[Tensor, "*E I O"]:
        """What the matrix is to be increased by to do without the adapter, in its layout."""
        return delta(self.a.detach(), self.b.detach(), self.scale)


def delta(a: Float[Tensor, "*E _ _"], b: Float[Tensor, "*E _ _"], scale: float) -> Tensor:
    """``scale`` times the product of both, float32, in the layout of the matrix beside them."""
    stacked = a.dim() == 3
    product = a.float() @ b.float() if stacked else b.float() @ a.float()
    return product.mul_(scale)
