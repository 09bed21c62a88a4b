"""A block: pre-norm sub-layers, each with dropout and a residual around it.

Axes: B batch, S sequence, D width.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.moe import MoEConfig
from turnout.models.attention import (
    CrossAttentionSublayer,
    self_attention,
)
from turnout.models.block_context import BlockOutput, StackContext
from turnout.models.initial import Deviations
from turnout.models.norms import norm
from turnout.models.shape import StackShape
from turnout.models.sparse import sparse_layer
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.nn.attention import KeyValues, Slots
from turnout.nn.feed_forward import FeedForward
from turnout.nn.scale import times


class FeedForwardSublayer(nn.Module, ABC):
    """The feed-forward part of a block, dense or sparse."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        """Fills the weights."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B S D"], context: RoutingContext) -> BlockOutput:
        """``x`` with this sub-layer's part added."""

    @abstractmethod
    def sparse_layers(self) -> dict[str, MoELayer]:
        """The sparse layer by name, or nothing."""


@final
class DenseSublayer(FeedForwardSublayer):
    """Norm, dense feed-forward network, dropout, residual."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.norm = norm(shape)
        self.network = FeedForward(shape.d_model, shape.feed_forward, shape.dropout)
        self.dropout = nn.Dropout(shape.dropout)
        self.residual = shape.residual

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.network.init_weights(generator, std=deviation.matrix, scale=deviation.scale)

    def forward(self, x: Float[Tensor, "B S D"], context: RoutingContext) -> BlockOutput:
        return BlockOutput(x + times(self.dropout(self.network(self.norm(x))), self.residual))

    def sparse_layers(self) -> dict[str, MoELayer]:
        return {}


@final
class SparseSublayer(FeedForwardSublayer):
    """Norm, sparse layer, dropout, residual; then ST-MoE's extra dense sub-layer, if any."""

    def __init__(self, shape: StackShape, moe: MoEConfig, layer: int) -> None:
        super().__init__()
        self.norm = norm(shape)
        self.moe = sparse_layer(shape, moe, layer, "moe")
        self.as_the_rest = moe.init_scale is None
        self.dropout = nn.Dropout(shape.dropout)
        self.residual = shape.residual
        self.extra = DenseSublayer(shape) if moe.extra_ffn else None

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.moe.init_weights(generator, std=deviation.matrix if self.as_the_rest else None)
        if self.extra is not None:
            self.extra.init_weights(generator, deviation)

    def forward(self, x: Float[Tensor, "B S D"], context: RoutingContext) -> BlockOutput:
        y, stats, decision = self.moe(self.norm(x), context)
        hidden = x + times(self.dropout(y), self.residual)
        if self.extra is not None:
            hidden = self.extra(hidden, context).hidden
        return BlockOutput(hidden, (stats,), (decision,))

    def sparse_layers(self) -> dict[str, MoELayer]:
        return {self.moe.name: self.moe}


@final
class Block(nn.Module):
    """Self-attention, cross-attention where the stack has it, feed-forward."""

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__()
        moe = shape.moe_of(layer)
        self.self_attention = self_attention(shape.attention, shape, moe, layer)
        self.cross_attention = CrossAttentionSublayer(shape) if shape.cross else None
        self.feed_forward = _feed_forward(shape, moe, layer)

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.self_attention.init_weights(generator, deviation)
        if self.cross_attention is not None:
            self.cross_attention.init_weights(generator, deviation)
        self.feed_forward.init_weights(generator, deviation)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        context: StackContext,
        slots: Slots | None = None,
        memory: KeyValues | None = None,
    ) -> BlockOutput:
        """``slots`` and ``memory`` are this layer's parts of a cache, where there is one."""
        attended = self.self_attention(x, context, slots)
        x = attended.hidden
        if self.cross_attention is not None:
            x = self.cross_attention(x, context, memory)
        fed = self.feed_forward(x, context.routing)
        return BlockOutput(
            fed.hidden, attended.layers + fed.layers, attended.decisions + fed.decisions
        )

    def sparse_layers(self) -> dict[str, MoELayer]:
        """Its sparse layers by name, in the order of their reports."""
        return self.self_attention.sparse_layers() | self.feed_forward.sparse_layers()


def _feed_forward(shape: StackShape, moe: MoEConfig | None, layer: int) -> FeedForwardSublayer:
    if moe is not None and moe.in_feed_forward:
        return SparseSublayer(shape, moe, layer)
    return DenseSublayer(shape)
