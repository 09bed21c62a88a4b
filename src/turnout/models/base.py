"""What every model answers, whatever its family."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.data.batch import Batch, Stream
from turnout.models.cache import Cache
from turnout.models.head import Head
from turnout.models.initial import Deviations
from turnout.models.outputs import ModelOutput
from turnout.models.stack import Stack
from turnout.moe.context import RoutingContext
from turnout.moe.layer import MoELayer
from turnout.moe.record import RoutingRecord
from turnout.moe.stats import LayerDecision, LayerStats
from turnout.nn.embedding import Embedding
from turnout.nn.init import truncated_normal_
from turnout.nn.linear import Linear


class Model(nn.Module, ABC):
    """A language model: embedding, one or two stacks, head.

    Parameters are float32; ``dtype`` is the compute dtype, to which layers cast explicitly.

    Attributes:
        head: the output weights; None where they are those of the embedding.
        logits_scale: factor on the logits, beside that of a shared embedding.
        packed_embedding: that of a shared embedding in ``prepared`` models.
        frozen: parameters that did not train when adapters froze all; merging leaves them so.
    """

    config: ModelConfig
    dtype: torch.dtype
    deviations: Deviations
    embedding: Embedding
    head: Linear | None
    logits_scale: float = 1.0
    packed_embedding: Tensor | None = None
    frozen: frozenset[str] = frozenset()

    @abstractmethod
    def forward(
        self,
        batch: Batch,
        *,
        cache: Cache | None = None,
        routing: bool = False,
        replay: RoutingRecord | None = None,
        observed: bool = True,
    ) -> ModelOutput:
        """Hidden states of the decoder's tokens.

        With a ``cache`` the batch holds new tokens only, behind those the cache has seen; it is
        used up, and the output carries the one to go on with. ``routing`` asks for the decisions
        of the sparse layers; ``replay`` makes the layers take those of a record, with gradients
        to the routers through the combine weights. Without ``observed`` the sparse layers report
        nothing, which saves the time that it takes, unless ``routing`` asks for it.

        Raises:
            UserError: a cache with gradients on, without room, or with packed rows; an
                encoder's stream where there is no encoder, or none where there is one; a record
                of another model or of other text, or with a cache.
        """

    @abstractmethod
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks in the order in which a token passes them; the decoder is the last."""

    def init_weights(self, seed: int) -> None:
        """Fills all weights from one generator; equal seeds give equal weights."""
        generator = torch.Generator(self.embedding.weight.device).manual_seed(seed)
        truncated_normal_(self.embedding.weight, self.deviations.embedding, generator, cut=3.0)
        for stack in self.stacks():
            stack.init_weights(generator, self.deviations)
        if self.head is not None:
            truncated_normal_(self.head.weight, self.deviations.head, generator, cut=3.0)

    def sparse_layers(self) -> dict[str, MoELayer]:
        """The sparse layers by name (``decoder.3.moe``), in order."""
        return {
            name: layer for stack in self.stacks() for name, layer in stack.sparse_layers().items()
        }

    def empty_cache(self, batch: int, max_length: int) -> Cache:
        """A cache for ``batch`` rows of at most ``max_length`` decoder tokens."""
        decoder = self.stacks()[-1].shape
        return Cache.empty(
            decoder.attention,
            decoder.num_layers,
            batch=batch,
            max_length=max_length,
            dtype=self.dtype,
            device=self.embedding.weight.device,
        )

    def output_head(self) -> Head:
        """The head over the weights as they are now."""
        if self.head is not None:
            return Head(self.head.weight, self.logits_scale, self.head.packed)
        scale = self.deviations.shared_logits * self.logits_scale
        if self.packed_embedding is None:
            return Head(self.embedding.weight, scale)
        return Head(self.packed_embedding, scale, packed=True)


def advance(cache: Cache | None, stream: Stream) -> Cache | None:
    """The cache with the tokens of ``stream`` counted in.

    Raises:
        UserError: the stream is packed or has a visible prefix that comes too late, gradients
            are on, or the cache is full.
    """
    if cache is None:
        return None
    refuse_packed(stream)
    if stream.visible is not None and cache.used:
        raise UserError(
            f"a visible prefix behind the {cache.used} tokens of the cache, which have not read "
            "it: give the whole prefix to the first pass"
        )
    return cache.advanced(stream.ids, stream.mask)


def refuse_packed(stream: Stream) -> None:
    """A cache knows one segment a row.

    Raises:
        UserError: the stream may hold more.
    """
    if stream.max_segments > 1:
        raise UserError(
            f"a KV cache takes one segment a row, this stream up to {stream.max_segments}: "
            "give each document a row of its own"
        )


def record(
    layers: tuple[LayerStats, ...], decisions: tuple[LayerDecision, ...], wanted: bool
) -> RoutingRecord | None:
    """The decisions with the names of their layers, if wanted."""
    if not wanted:
        return None
    return RoutingRecord(tuple(layer.name for layer in layers), decisions)


def replayed(
    context: RoutingContext, replay: RoutingRecord | None, stack: Stack, cached: bool
) -> RoutingContext:
    """The context that makes the sparse layers of ``stack`` take the experts of a record.

    Raises:
        UserError: the record lacks a layer, names experts that a layer does not have, or is of
            other text; or there is a cache.
    """
    if replay is None:
        return context
    if cached:
        raise UserError("replay: goes with whole rows, not with a cache; leave out one of them")
    recorded = replay.by_layer()
    for name, layer in stack.sparse_layers().items():
        if name not in recorded:
            raise UserError(
                f"replay: the record has no layer {name!r} (it has {', '.join(recorded)}): "
                "it is of another model"
            )
        expert, experts = recorded[name].named, layer.experts.num_experts
        if expert.shape[:2] != context.mask.shape:
            raise UserError(
                f"replay: {name} is recorded for {tuple(expert.shape[:2])} tokens, the batch has "
                f"{tuple(context.mask.shape)}: give the text that was recorded"
            )
        if bool(((expert < -1) | (expert >= experts)).any()):
            raise UserError(
                f"replay: {name} names experts that are not among its {experts}: the record is "
                "of another model"
            )
    return replace(context, replay=recorded)
