"""A stack of blocks with its final norm.

Axes: B batch, S sequence, D width, E encoder positions.
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from turnout.data.batch import Stream
from turnout.models.attention import masked
from turnout.models.block_context import BlockOutput, StackContext
from turnout.models.blocks import Block
from turnout.models.cache import Cache, Memory, kept
from turnout.models.initial import Deviations
from turnout.models.norms import norm
from turnout.models.positions import position_bias, rotary, sinusoids
from turnout.models.shape import StackShape
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.moe.stats import LayerDecision, LayerStats
from turnout.nn.attention import attention_mask
from turnout.nn.biased import Mask


@dataclass(frozen=True)
class Encoded:
    """Which encoder positions a query may read, and their states unless a cache has them."""

    allowed: Bool[Tensor, "B 1 S E"]
    states: Float[Tensor, "B E D"] | None = None


@final
class Stack(nn.Module):
    """Blocks, one after the other, between embedding and head.

    With ``recompute`` a block's activations are computed again in the backward pass.
    """

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.shape = shape
        self.position_bias = position_bias(shape.positions, shape, per_layer=False)
        self.rotary = rotary(shape.positions, shape.attention.rotary_dim)
        self.sinusoids = sinusoids(shape.positions, shape.d_model)
        self.windows = shape.attention.windows(shape.num_layers)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_layers))
        self.norm = norm(shape)

    def init_weights(self, generator: torch.Generator, deviation: Deviations) -> None:
        if self.position_bias is not None:
            self.position_bias.init_weights(generator, std=deviation.position)
        for block in self._blocks():
            block.init_weights(generator, deviation)
        self.norm.init_weights()

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile every block in place; parameters keep their names."""
        for block in self._blocks():
            block.compile(fullgraph=True, backend=backend)

    def sparse_layers(self) -> dict[str, MoELayer]:
        """Sparse layers by name, in order."""
        return {
            name: layer for block in self._blocks() for name, layer in block.sparse_layers().items()
        }

    def reader(self, segment: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
        """The segment that each query reads. Padding, of segment 0, has none, and nobody reads it;
        where it takes slots it belongs to the first, or its experts would not be the imitated."""
        return segment.clamp(min=1) if self.shape.padding_reads else segment

    def remember(self, states: Float[Tensor, "B E D"], mask: Bool[Tensor, "B E"]) -> Memory:
        """Keys and values that the blocks' cross-attention reads of an encoder's states."""
        layers = tuple(
            block.cross_attention.attention.project(states).to(kept(states.dtype, states.device))
            for block in self._blocks()
            if block.cross_attention is not None
        )
        return Memory(layers, mask)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        stream: Stream,
        routing: RoutingContext,
        *,
        encoded: Encoded | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "B S D"], tuple[LayerStats, ...], tuple[LayerDecision, ...]]:
        """Hidden states after the last norm, and the report of every sparse layer.

        ``cache`` already counts the tokens of ``stream`` in (``Cache.advanced``).
        """
        contexts = self._contexts(x, stream, routing, encoded, cache)
        if self.sinusoids is not None:
            x = x + self.sinusoids.at(stream.position).to(x.dtype)
        x = self.dropout(x)
        layers: tuple[LayerStats, ...] = ()
        decisions: tuple[LayerDecision, ...] = ()
        for layer in range(self.shape.num_layers):
            output = self._run(layer, x, contexts[layer], cache)
            x = output.hidden
            layers += output.layers
            decisions += output.decisions
        return self.dropout(self.norm(x)), layers, decisions

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _run(
        self, layer: int, x: Float[Tensor, "B S D"], context: StackContext, cache: Cache | None
    ) -> BlockOutput:
        block = self.blocks[layer]
        output: BlockOutput
        if cache is not None:
            memory = None if cache.memory is None else cache.memory.layers[layer]
            output = block(x, context, cache.slots(layer, x.shape[1]), memory)
        elif self.shape.recompute and torch.is_grad_enabled():
            output = checkpoint(block, x, context, use_reentrant=False)
        else:
            output = block(x, context)
        return output

    def _contexts(
        self,
        x: Float[Tensor, "B S D"],
        stream: Stream,
        routing: RoutingContext,
        encoded: Encoded | None,
        cache: Cache | None,
    ) -> tuple[StackContext, ...]:
        """The context of each layer: layers of one window share their masks."""
        rotation = None if self.rotary is None else self.rotary.at(stream.position)
        by_window = {}
        for window in dict.fromkeys(self.windows):
            allowed, mask, start = self._masks(x, stream, cache, window)
            by_window[window] = StackContext(
                routing=routing,
                allowed=allowed,
                mask=mask,
                start=start,
                rotation=rotation,
                encoded=None if encoded is None else encoded.states,
                encoded_allowed=None if encoded is None else encoded.allowed,
            )
        return tuple(by_window[window] for window in self.windows)

    def _masks(
        self, x: Float[Tensor, "B S D"], stream: Stream, cache: Cache | None, window: int | None
    ) -> tuple[Bool[Tensor, "B 1 S K"], Mask, int]:
        """What a query may read, the same with the stack's position bias, and the first slot."""
        start = 0 if cache is None else cache.used - x.shape[1]
        if cache is None:
            query, key, readable = stream.segment, stream.segment, stream.mask
        else:
            readable = cache.mask[:, : cache.used]
            query, key = stream.mask.long(), readable.long()
        allowed = attention_mask(
            self.reader(query),
            key,
            readable,
            causal=self.shape.causal,
            start=start,
            visible=stream.visible,
            window=window,
        )
        if self.position_bias is None:
            return allowed, allowed, start
        bias = self.position_bias(x.shape[1], key.shape[1], start)
        dtype = x.dtype if cache is None else cache.dtype
        dropout = self.shape.dropout if self.training else 0.0
        return allowed, masked(bias, allowed, self.shape.attention, dtype, dropout), start
