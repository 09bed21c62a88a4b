"""A block: pre-norm sub-layers, each with dropout and a residual around it.

Axes: B batch, S sequence, D width, H heads, E encoder positions, Q queries, K keys.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from turnout.config.moe import MoEConfig
from turnout.models.contexts import grouping
from turnout.models.initial import Deviations
from turnout.models.positions import position_bias
from turnout.models.shape import StackShape
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.moe.stats import LayerDecision, LayerStats
from turnout.nn.attention import Attention, KeyValues, Slots, biased
from turnout.nn.feed_forward import FeedForward
from turnout.nn.norms import RMSNorm
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
    mask: Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B H Q K"]
    start: int = 0
    rotation: Rotation | None = None
    encoded: Float[Tensor, "B E D"] | None = None
    encoded_allowed: Bool[Tensor, "B 1 Q E"] | None = None


@pytree()
@dataclass(frozen=True)
class BlockOutput:
    """Hidden states and the reports of the sparse layers passed: one, or none."""

    hidden: Float[Tensor, "B S D"]
    layers: tuple[LayerStats, ...] = ()
    decisions: tuple[LayerDecision, ...] = ()


@final
class SelfAttentionSublayer(nn.Module):
    """Norm, attention to the row itself, dropout, residual."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.d_model, shape.epsilon)
        self.attention = _attention(shape)
        self.position_bias = position_bias(shape.positions, shape, per_layer=True)
        self.dropout = nn.Dropout(shape.dropout)

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.attention.init_weights(generator, std=deviation.matrix, scale=deviation.scale)
        if self.position_bias is not None:
            self.position_bias.init_weights(generator, std=deviation.position)

    def forward(
        self, x: Float[Tensor, "B S D"], context: StackContext, slots: Slots | None
    ) -> Float[Tensor, "B S D"]:
        normed = self.norm(x)
        read = self.attention.project(normed, context.rotation)
        if slots is not None:
            read = slots.extend(read)
        mask = context.mask
        if self.position_bias is not None:
            bias = self.position_bias(x.shape[1], read.keys.shape[2], context.start)
            mask = biased(context.allowed, bias, x.dtype)
        mixed: Tensor = self.dropout(self.attention(normed, read, mask, context.rotation))
        return x + mixed


@final
class CrossAttentionSublayer(nn.Module):
    """Norm, attention to the encoder's states, dropout, residual."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.d_model, shape.epsilon)
        self.attention = _attention(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.attention.init_weights(generator, std=deviation.matrix, scale=deviation.scale)

    def forward(
        self, x: Float[Tensor, "B S D"], context: StackContext, memory: KeyValues | None
    ) -> Float[Tensor, "B S D"]:
        """Reads ``memory``, or projects the encoder's states of the context."""
        assert context.encoded_allowed is not None
        if memory is None:
            assert context.encoded is not None
            memory = self.attention.project(context.encoded)
        mixed: Tensor = self.dropout(self.attention(self.norm(x), memory, context.encoded_allowed))
        return x + mixed


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
        self.norm = RMSNorm(shape.d_model, shape.epsilon)
        self.network = FeedForward(shape.d_model, shape.feed_forward, shape.dropout)
        self.dropout = nn.Dropout(shape.dropout)

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.network.init_weights(generator, std=deviation.matrix, scale=deviation.scale)

    def forward(self, x: Float[Tensor, "B S D"], context: RoutingContext) -> BlockOutput:
        return BlockOutput(x + self.dropout(self.network(self.norm(x))))

    def sparse_layers(self) -> dict[str, MoELayer]:
        return {}


@final
class SparseSublayer(FeedForwardSublayer):
    """Norm, sparse layer, dropout, residual; then ST-MoE's extra dense sub-layer, if any."""

    def __init__(self, shape: StackShape, moe: MoEConfig, layer: int) -> None:
        super().__init__()
        self.name = f"{shape.name}.{layer}.moe"
        self.norm = RMSNorm(shape.d_model, shape.epsilon)
        self.moe = build_layer(
            moe,
            d_model=shape.d_model,
            feed_forward=shape.feed_forward,
            name=self.name,
            stack=shape.name,
            index=shape.first_index + layer,
            group_tokens=grouping(moe.group).tokens(shape.length),
            vocab_size=shape.vocab_size,
            decoder=shape.causal,
            initialise=False,
        )
        self.as_the_rest = moe.init_scale is None
        self.dropout = nn.Dropout(shape.dropout)
        self.extra = DenseSublayer(shape) if moe.extra_ffn else None

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.moe.init_weights(generator, std=deviation.matrix if self.as_the_rest else None)
        if self.extra is not None:
            self.extra.init_weights(generator, deviation)

    def forward(self, x: Float[Tensor, "B S D"], context: RoutingContext) -> BlockOutput:
        y, stats, decision = self.moe(self.norm(x), context)
        hidden = x + self.dropout(y)
        if self.extra is not None:
            hidden = self.extra(hidden, context).hidden
        return BlockOutput(hidden, (stats,), (decision,))

    def sparse_layers(self) -> dict[str, MoELayer]:
        return {self.name: self.moe}


@final
class Block(nn.Module):
    """Self-attention, cross-attention where the stack has it, feed-forward."""

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__()
        self.self_attention = SelfAttentionSublayer(shape)
        self.cross_attention = CrossAttentionSublayer(shape) if shape.cross else None
        self.feed_forward = _feed_forward(shape, layer)

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
        x = self.self_attention(x, context, slots)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context, memory)
        output: BlockOutput = self.feed_forward(x, context.routing)
        return output


def _attention(shape: StackShape) -> Attention:
    return Attention(shape.d_model, shape.attention, epsilon=shape.epsilon, dropout=shape.dropout)


def _feed_forward(shape: StackShape, layer: int) -> FeedForwardSublayer:
    if shape.moe is not None and layer in shape.sparse:
        own = shape.moe.of_layers(len(shape.sparse))[sorted(shape.sparse).index(layer)]
        return SparseSublayer(shape, own, layer)
    return DenseSublayer(shape)
