"""What a suite asks of another library's layer."""

from abc import ABC, abstractmethod
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from turnout.moe.layer import MoELayer


class LayerPeer(ABC):
    """A sparse layer of another library.

    Attributes:
        name: of its distribution.
    """

    name: str

    @abstractmethod
    def takes(self, k: int) -> bool:
        """Whether it has layers with so many choices."""

    @abstractmethod
    def needed(self, tokens: int, experts: int, capacity: int, k: int) -> int:
        """Bytes of its largest tables, which are alive together in a step; an estimate."""

    @abstractmethod
    def layer(self, ours: MoELayer, capacity: int, row: int) -> nn.Module:
        """Its layer with copies of the weights of ours, from [B S D] to [B S D]; no noise.

        Args:
            ours: with ReLU and neither biases nor gates.
            capacity: slots of an expert in a row, with which nothing is dropped.
            row: tokens of a row.
        """


@final
class OutputAlone(nn.Module):
    """A layer that gives its losses behind its output, without them."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        y: Tensor = self.inner(x)[0]
        return y


def capacity_factor(capacity: int, experts: int, row: int) -> float:
    """What gives an expert ``capacity`` slots where they are ``int(row * factor / experts)``."""
    return (capacity + 0.5) * experts / row


def table_bytes(tokens: int, experts: int, capacity: int, tables: int) -> int:
    """Bytes of float32 tables with a place for every token, expert and slot."""
    return 4 * tables * tokens * experts * capacity
