"""A decoder alone: predicts the next token of the row it reads."""

from typing import final

import torch

from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig
from turnout.data.batch import Batch
from turnout.models.base import Model, advance, record, replayed
from turnout.models.cache import Cache
from turnout.models.contexts import Contexts
from turnout.models.initial import deviations, sparse_like
from turnout.models.outputs import ModelOutput
from turnout.models.shape import StackShape
from turnout.models.stack import Stack
from turnout.moe.record import RoutingRecord
from turnout.nn.embedding import Embedding
from turnout.nn.linear import Linear
from turnout.nn.scale import times


@final
class DecoderOnly(Model):
    """Embedding, causal stack, head (the embedding's weights when tied)."""

    config: DecoderOnlyConfig

    def __init__(self, config: DecoderOnlyConfig, *, dtype: torch.dtype, recompute: bool) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.contexts = Contexts.of(config.moe)
        self.deviations = deviations(config.initialisation, config.d_model)
        self.embedding = Embedding(config.vocab_size, config.d_model, dtype)
        self.decoder = Stack(_shape(config, recompute))
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size)
        self.logits_scale = 1.0 / config.multipliers.logits_divisor

    def stacks(self) -> tuple[Stack, ...]:
        return (self.decoder,)

    def forward(
        self,
        batch: Batch,
        *,
        cache: Cache | None = None,
        routing: bool = False,
        replay: RoutingRecord | None = None,
        observed: bool = True,
    ) -> ModelOutput:
        if batch.encoder is not None:
            raise UserError(
                "batch.encoder is set, but a decoder_only model has no encoder: "
                "use rows made for it, as every objective of a decoder_only run makes them"
            )
        cache = advance(cache, batch.decoder)
        observed = observed or routing
        context = self.contexts.context(batch.decoder, batch, cache, observed=observed)
        context = replayed(context, replay, self.decoder, cache is not None)
        hidden, layers, decisions = self.decoder(
            times(self.embedding(batch.decoder.ids), self.config.multipliers.embedding),
            batch.decoder,
            context,
            cache=cache,
        )
        return ModelOutput(
            hidden=hidden,
            head=self.output_head(),
            layers=layers if observed else (),
            cache=cache,
            routing=record(layers, decisions, routing),
        )


def _shape(config: DecoderOnlyConfig, recompute: bool) -> StackShape:
    moe = config.moe
    if moe is not None:
        moe = sparse_like(config.initialisation, moe.of_stack(decoder=True))
    return StackShape(
        name="decoder",
        num_layers=config.num_layers,
        first_index=0,
        d_model=config.d_model,
        attention=config.attention,
        feed_forward=config.feed_forward,
        moe=moe,
        positions=config.positions,
        length=config.length,
        dropout=config.dropout,
        epsilon=config.norm_epsilon,
        causal=True,
        cross=False,
        recompute=recompute,
        vocab_size=config.vocab_size,
        residual=config.multipliers.residual,
        attention_scale=config.multipliers.attention,
        norm=config.norm,
    )
