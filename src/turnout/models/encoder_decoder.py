"""An encoder that reads all of its row, and a decoder that reads it while it writes its own.

Axes: B batch, S sequence, D width.
"""

from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.model import EncoderDecoderConfig
from turnout.data.batch import Batch, Stream
from turnout.models.base import Model, advance, record, refuse_packed, replayed
from turnout.models.cache import Cache
from turnout.models.contexts import Contexts
from turnout.models.initial import deviations, sparse_like
from turnout.models.outputs import ModelOutput
from turnout.models.shape import StackShape
from turnout.models.stack import Encoded, Stack
from turnout.moe.record import RoutingRecord
from turnout.moe.stats import LayerDecision, LayerStats
from turnout.nn.attention import attention_mask
from turnout.nn.embedding import Embedding
from turnout.nn.linear import Linear
from turnout.nn.scale import times

Reports = tuple[tuple[LayerStats, ...], tuple[LayerDecision, ...]]


@final
class EncoderDecoder(Model):
    """One embedding for both stacks, and a head (the same weights when tied)."""

    config: EncoderDecoderConfig

    def __init__(
        self, config: EncoderDecoderConfig, *, dtype: torch.dtype, recompute: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.contexts = Contexts.of(config.moe)
        self.deviations = deviations(config.initialisation, config.d_model)
        self.scale = config.d_model**0.5 if config.scaled_embedding else 1.0
        self.embedding = Embedding(config.vocab_size, config.d_model, dtype)
        self.encoder = Stack(_shape(config, recompute, decoder=False))
        self.decoder = Stack(_shape(config, recompute, decoder=True))
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size)

    def stacks(self) -> tuple[Stack, ...]:
        return (self.encoder, self.decoder)

    def forward(
        self,
        batch: Batch,
        *,
        cache: Cache | None = None,
        routing: bool = False,
        replay: RoutingRecord | None = None,
        observed: bool = True,
    ) -> ModelOutput:
        """As ``Model.forward``; the encoder runs unless the cache remembers what it said."""
        observed = observed or routing
        cache = advance(cache, batch.decoder)
        if cache is None:
            encoded, encoder_reports = self._encode(batch, replay, observed)
        else:
            cache, encoded, encoder_reports = self._remember(batch, cache, observed)
        context = self.contexts.context(batch.decoder, batch, cache, observed=observed)
        context = replayed(context, replay, self.decoder, cache is not None)
        hidden, layers, decisions = self.decoder(
            self._embedded(batch.decoder),
            batch.decoder,
            context,
            encoded=encoded,
            cache=cache,
        )
        layers = encoder_reports[0] + layers
        return ModelOutput(
            hidden=hidden,
            head=self.output_head(),
            layers=layers if observed else (),
            cache=cache,
            routing=record(layers, encoder_reports[1] + decisions, routing),
        )

    def _embedded(self, stream: Stream) -> Float[Tensor, "B S D"]:
        return times(self.embedding(stream.ids), self.scale)

    def _encode(
        self, batch: Batch, replay: RoutingRecord | None, observed: bool
    ) -> tuple[Encoded, Reports]:
        stream = _encoder_stream(batch)
        context = self.contexts.context(stream, batch, observed=observed)
        context = replayed(context, replay, self.encoder, False)
        states, layers, decisions = self.encoder(self._embedded(stream), stream, context)
        query = self.decoder.reader(batch.decoder.segment)
        allowed = attention_mask(query, stream.segment, stream.mask, causal=False)
        return Encoded(allowed, states), (layers, decisions)

    def _remember(
        self, batch: Batch, cache: Cache, observed: bool
    ) -> tuple[Cache, Encoded, Reports]:
        reports: Reports = ((), ())
        if cache.memory is None:
            stream = _encoder_stream(batch)
            refuse_packed(stream)
            context = self.contexts.alone(stream, batch, observed=observed)
            states, *found = self.encoder(self._embedded(stream), stream, context)
            reports = (found[0], found[1])
            cache = replace(cache, memory=self.decoder.remember(states, stream.mask))
        assert cache.memory is not None
        known = cache.memory.mask
        query = self.decoder.reader(batch.decoder.mask.long())
        allowed = attention_mask(query, known.long(), known, causal=False)
        return cache, Encoded(allowed), reports


def _encoder_stream(batch: Batch) -> Stream:
    if batch.encoder is None:
        raise UserError(
            "batch.encoder is missing, which an encoder_decoder model reads: use rows made for it, "
            "as every objective of an encoder_decoder run makes them"
        )
    return batch.encoder


def _shape(config: EncoderDecoderConfig, recompute: bool, *, decoder: bool) -> StackShape:
    moe = config.moe
    if moe is not None:
        moe = sparse_like(config.initialisation, moe.of_stack(decoder))
    return StackShape(
        name="decoder" if decoder else "encoder",
        num_layers=config.decoder_layers if decoder else config.encoder_layers,
        first_index=config.encoder_layers if decoder else 0,
        d_model=config.d_model,
        attention=config.attention,
        feed_forward=config.feed_forward,
        moe=moe,
        positions=config.positions,
        length=config.decoder_length if decoder else config.encoder_length,
        dropout=config.dropout,
        epsilon=config.norm_epsilon,
        causal=decoder,
        cross=decoder,
        recompute=recompute,
        vocab_size=config.vocab_size,
        norm=config.norm,
    )
