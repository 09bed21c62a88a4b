"""What goes into the blocks of a stack beside the hidden states, and what comes out.

Axes: B batch, S sequence, D width, H heads, E encoder positions, Q queries, K keys.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from turnout.moe.context import RoutingContext
from turnout.moe.stats import LayerDecision, LayerStats
from turnout.nn.biased import Mask
from turnout.nn.positions import Rotation
from turnout.pytree import pytree


@pytree(static=("start",))
@dataclass(frozen=True)
class StackContext:
    """What all blocks of a stack share in one forward pass.

    Attributes:
        routing: what the routers may know.
        allowed: True where a query may read a key of its own row.
        mask: the same with the stack's shared position bias in it, where it has one.
        start: slot of the first query, above 0 under a cache.
        rotation: angles of the tokens, for rotary positions.
        encoded: the encoder's states, for cross-attention without a cache.
        encoded_allowed: True where a query may read an encoder position.
    """

    routing: RoutingContext
    allowed: Bool[Tensor, "B 1 Q K"]
    mask: Mask
    start: int = 0
    rotation: Rotation | None = None
    encoded: Float[Tensor, "B E D"] | None = None
    encoded_allowed: Bool[Tensor, "B 1 Q E"] | None = None


@pytree()
@dataclass(frozen=True)
class BlockOutput:
    """Hidden states and the reports of the sparse layers passed, in order."""

    hidden: Float[Tensor, "B S D"]
    layers: tuple[LayerStats, ...] = ()
    decisions: tuple[LayerDecision, ...] = ()
