"""The attention sub-layers of a block: to the row itself, dense or with experts, and across.

Axes: B batch, S sequence, D width, Q queries, K keys.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import singledispatch
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from turnout.config.attention import AttentionConfig
from turnout.config.errors import UserError
from turnout.config.latent_attention import LatentAttention as LatentAttentionConfig
from turnout.config.moe import MoEConfig
from turnout.models.block_context import BlockOutput, StackContext
from turnout.models.initial import Deviations
from turnout.models.norms import norm
from turnout.models.positions import logit_scale, position_bias
from turnout.models.shape import StackShape
from turnout.models.sparse import sparse_layer
from turnout.moe.experts import LinearExperts
from turnout.moe.layer import MoELayer
from turnout.nn import learned_bias
from turnout.nn.attention import Attention, AttentionBase, KeyValues, Slots
from turnout.nn.biased import Biased, Mask
from turnout.nn.init import matrix_normal_
from turnout.nn.latent_attention import LatentAttention
from turnout.nn.positions import RelativePositionBias, Rotation
from turnout.nn.scale import times


@runtime_checkable
class DenseAttention(Protocol):
    """Attention to what it projected itself, with one matrix a projection."""

    def init_weights(
        self, generator: torch.Generator, *, std: float | None = None, scale: float = 1.0
    ) -> None:
        """Fills the weights."""

    def project(self, source: Tensor, rotation: Rotation | None = None) -> KeyValues:
        """What a cache keeps of ``source``."""

    def __call__(
        self, x: Tensor, read: KeyValues, mask: Mask, rotation: Rotation | None = None
    ) -> Tensor:
        """Queries of ``x`` over what was projected."""


class SelfAttentionSublayer(nn.Module, ABC):
    """Norm, attention to the row itself, dropout, residual."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        """Fills the weights."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B S D"], context: StackContext, slots: Slots | None
    ) -> BlockOutput:
        """``x`` with this sub-layer's part added; ``slots`` are its part of a cache."""

    @abstractmethod
    def sparse_layers(self) -> dict[str, MoELayer]:
        """The sparse layers by name, in the order of their reports, or nothing."""


@final
class DenseSelfAttention(SelfAttentionSublayer):
    """One matrix a projection."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.norm = norm(shape)
        self.attention = dense_attention(shape.attention, shape)
        self.position_bias = position_bias(shape.positions, shape, per_layer=True)
        self.dropout = nn.Dropout(shape.dropout)
        self.residual = shape.residual

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.attention.init_weights(generator, std=deviation.matrix, scale=deviation.scale)
        if self.position_bias is not None:
            self.position_bias.init_weights(generator, std=deviation.position)

    def forward(
        self, x: Float[Tensor, "B S D"], context: StackContext, slots: Slots | None
    ) -> BlockOutput:
        normed = self.norm(x)
        read = self.attention.project(normed, context.rotation)
        if slots is not None:
            read = slots.extend(read)
        mask = _mask(self.position_bias, read, context)
        mixed: Tensor = self.dropout(self.attention(normed, read, mask, context.rotation))
        return BlockOutput(x + times(mixed, self.residual))

    def sparse_layers(self) -> dict[str, MoELayer]:
        return {}


@final
class SparseAttention(AttentionBase):
    """A sparse layer makes the queries, another one vector that is key and value both (Switch
    Transformers, 2101.03961, appendix A and figure 10, table 10).

    Each has a router of its own. A token that has no slot gets zeros: as a query it reads
    evenly, but for the position bias; as a key it adds nothing.
    """

    def __init__(
        self, shape: StackShape, config: AttentionConfig, moe: MoEConfig, layer: int
    ) -> None:
        super().__init__(
            shape.d_model,
            config,
            epsilon=shape.epsilon,
            dropout=shape.dropout,
            scale=shape.attention_scale,
        )
        scale = 1.0 if moe.init_scale is None else moe.init_scale
        self.as_the_rest = moe.init_scale is None
        self.query = _projection(
            shape, moe, layer, "attention.query", config.q_width, scale * self.query_scale
        )
        self.key_value = _projection(
            shape, moe, layer, "attention.key_value", config.kv_width, scale
        )

    def init_weights(
        self, generator: torch.Generator, *, std: float | None = None, scale: float = 1.0
    ) -> None:
        """See ``AttentionBase.init_weights``; experts as ``moe.init_scale`` says."""
        for layer in (self.query, self.key_value):
            layer.init_weights(generator, std=std if self.as_the_rest else None)
        matrix_normal_(self.out.weight, generator, scale=scale, std=std)
        self.init_shared()


@final
class SparseSelfAttention(SelfAttentionSublayer):
    """Experts make queries, and keys and values."""

    def __init__(
        self, shape: StackShape, config: AttentionConfig, moe: MoEConfig, layer: int
    ) -> None:
        super().__init__()
        self.norm = norm(shape)
        self.attention = SparseAttention(shape, config, moe, layer)
        self.position_bias = position_bias(shape.positions, shape, per_layer=True)
        self.dropout = nn.Dropout(shape.dropout)
        self.residual = shape.residual

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        self.norm.init_weights()
        self.attention.init_weights(generator, std=deviation.matrix, scale=deviation.scale)
        if self.position_bias is not None:
            self.position_bias.init_weights(generator, std=deviation.position)

    def forward(
        self, x: Float[Tensor, "B S D"], context: StackContext, slots: Slots | None
    ) -> BlockOutput:
        normed = self.norm(x)
        queries, query_stats, query_decision = self.attention.query(normed, context.routing)
        both, stats, decision = self.attention.key_value(normed, context.routing)
        read = self.attention.as_read(both, both, context.rotation)
        if slots is not None:
            read = slots.extend(read)
        mask = _mask(self.position_bias, read, context)
        mixed = self.attention.attend(queries, read, mask, context.rotation)
        return BlockOutput(
            x + times(self.dropout(mixed), self.residual),
            (query_stats, stats),
            (query_decision, decision),
        )

    def sparse_layers(self) -> dict[str, MoELayer]:
        layers = (self.attention.query, self.attention.key_value)
        return {layer.name: layer for layer in layers}


@final
class CrossAttentionSublayer(nn.Module):
    """Norm, attention to the encoder's states, dropout, residual."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.norm = norm(shape)
        self.attention = dense_attention(shape.attention, shape)
        self.dropout = nn.Dropout(shape.dropout)
        self.residual = shape.residual

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
        return x + times(mixed, self.residual)


@singledispatch
def dense_attention(config: object, shape: StackShape) -> DenseAttention:
    """Attention with one matrix a projection, by the configured kind."""
    raise UserError(f"model.attention = {config!r}: no such attention")


@dense_attention.register
def _(config: AttentionConfig, shape: StackShape) -> DenseAttention:
    return Attention(
        shape.d_model,
        config,
        epsilon=shape.epsilon,
        dropout=shape.dropout,
        scale=shape.attention_scale,
    )


@dense_attention.register
def _(config: LatentAttentionConfig, shape: StackShape) -> DenseAttention:
    return LatentAttention(
        shape.d_model,
        config,
        epsilon=shape.epsilon,
        dropout=shape.dropout,
        logit_scale=logit_scale(shape.positions),
    )


@singledispatch
def self_attention(
    config: object, shape: StackShape, moe: MoEConfig | None, layer: int
) -> SelfAttentionSublayer:
    """The self-attention of a block: with experts where ``moe`` puts them there."""
    raise UserError(f"model.attention = {config!r}: no such attention")


@self_attention.register
def _(
    config: AttentionConfig, shape: StackShape, moe: MoEConfig | None, layer: int
) -> SelfAttentionSublayer:
    if moe is not None and moe.in_attention:
        return SparseSelfAttention(shape, config, moe, layer)
    return DenseSelfAttention(shape)


@self_attention.register
def _(
    config: LatentAttentionConfig, shape: StackShape, moe: MoEConfig | None, layer: int
) -> SelfAttentionSublayer:
    return DenseSelfAttention(shape)


def _projection(
    shape: StackShape, moe: MoEConfig, layer: int, part: str, width: int, scale: float
) -> MoELayer:
    experts = LinearExperts(
        moe.num_experts, shape.d_model, width, init_scale=scale, product=moe.product
    )
    return sparse_layer(shape, replace(moe, shared_experts=0), layer, part, experts)


def masked(
    bias: Float[Tensor, "1 H Q K"],
    allowed: Bool[Tensor, "B 1 Q K"],
    config: AttentionConfig | LatentAttentionConfig,
    dtype: torch.dtype,
    dropout: float,
) -> Biased | Float[Tensor, "B H Q K"]:
    """For all layers of a stack: apart where each joins them as it goes, in one piece where each
    would have to make its own."""
    found = Biased(bias, allowed)
    own = isinstance(config, AttentionConfig) and config.kv_heads == config.num_heads
    return found if own and learned_bias.wanted(found, dtype, dropout) else found.merged(dtype)


def _mask(
    position_bias: RelativePositionBias | None, read: KeyValues, context: StackContext
) -> Mask:
    """The stack's mask, or one with the bias of this layer."""
    if position_bias is None:
        return context.mask
    bias = position_bias(context.allowed.shape[2], read.keys.shape[2], context.start)
    return Biased(bias, context.allowed)
