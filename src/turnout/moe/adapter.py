"""Low-rank adapters of stacked experts (LoRA, Hu et al. 2021, 2106.09685).

Axes: N rows sorted by expert, E experts, I inputs, O outputs, R rank.
"""

from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.products import grouped_product
from turnout.nn.adapter import Adapter


@final
class StackedAdapter(Adapter):
    """That of a stack [E, I, O]: an adapter for each expert, by two more grouped products.

    Their backend is chosen for their own widths, which the configured one may not take.
    """

    def __init__(
        self, experts: int, inputs: int, outputs: int, rank: int, *, scale: float, dropout: float
    ) -> None:
        a, b = (experts, inputs, rank), (experts, rank, outputs)
        super().__init__(a, b, scale=scale, dropout=dropout)

    @property
    def rank(self) -> int:
        return self.a.shape[2]

    def along(self, dim: int) -> tuple[str, ...]:
        if dim == 0:
            return "a", "b"
        return ("a",) if dim == 1 else ("b",)

    def forward(
        self, rows: Float[Tensor, "N I"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N O"]:
        """What is added to the grouped product of the rows; zero for those past the last offset.

        An expert without rows has a gradient of zero.
        """
        inner = grouped_product(self.dropout(rows), self.a, offsets)
        return grouped_product(inner * self.scale, self.b, offsets)


def adapted(
    y: Float[Tensor, "N O"],
    rows: Float[Tensor, "N I"],
    offsets: Int[Tensor, " E"],
    adapter: StackedAdapter | None,
) -> Float[Tensor, "N O"]:
    """``y``, what stacked matrices made of the rows, with what their adapter adds where they have
    one."""
    if adapter is None:
        return y
    added: Tensor = adapter(rows, offsets)
    return y + added
