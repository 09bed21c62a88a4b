"""A decoder alone: predicts the next token of the row it reads."""

from typing import final

import torch

from turnout.config.errors import UserError
from turnout.config.model import DecoderOnlyConfig
from turnout.data.batch import Batch
from turnout.models.base import Model, advance, record
from turnout.models.cache import Cache
from turnout.models.contexts import Contexts
from turnout.models.head import Head
from turnout.models.initial import deviations, sparse_like
from turnout.models.outputs import ModelOutput
from turnout.models.shape import StackShape
from turnout.models.stack import Stack
from turnout.moe.layer import MoELayer
from turnout.nn.embedding import Embedding
from turnout.nn.init import truncated_normal_
from turnout.nn.linear import Linear


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

    def init_weights(self, seed: int) -> None:
        generator = torch.Generator(self.embedding.weight.device).manual_seed(seed)
        truncated_normal_(self.embedding.weight, self.deviations.embedding, generator, cut=3.0)
        self.decoder.init_weights(generator, self.deviations)
        if self.head is not None:
            truncated_normal_(self.head.weight, self.deviations.head, generator, cut=3.0)

    def sparse_layers(self) -> dict[str, MoELayer]:
        return self.decoder.sparse_layers()

    def empty_cache(self, batch: int, max_length: int) -> Cache:
        return Cache.empty(
            self.config.attention,
            self.config.num_layers,
            batch=batch,
            max_length=max_length,
            dtype=self.dtype,
            device=self.embedding.weight.device,
        )

    def forward(
        self, batch: Batch, *, cache: Cache | None = None, routing: bool = False
    ) -> ModelOutput:
        if batch.encoder is not None:
            raise UserError(
                "batch.encoder is set, but a decoder_only model has no encoder: "
                "use the causal objective"
            )
        cache = advance(cache, batch.decoder)
        context = self.contexts.context(batch.decoder, batch, cached=cache is not None)
        hidden, layers, decisions = self.decoder(
            self.embedding(batch.decoder.ids), batch.decoder, context, cache=cache
        )
        return ModelOutput(
            hidden=hidden,
            head=self._head(),
            layers=layers,
            cache=cache,
            routing=record(layers, decisions, routing),
        )

    def _head(self) -> Head:
        if self.head is not None:
            return Head(self.head.weight)
        return Head(self.embedding.weight, self.deviations.shared_logits)


def _shape(config: DecoderOnlyConfig, recompute: bool) -> StackShape:
    return StackShape(
        name="decoder",
        num_layers=config.num_layers,
        first_index=0,
        d_model=config.d_model,
        attention=config.attention,
        feed_forward=config.feed_forward,
        moe=None if config.moe is None else sparse_like(config.initialisation, config.moe),
        positions=config.positions,
        length=config.length,
        dropout=config.dropout,
        epsilon=config.norm_epsilon,
        causal=True,
        cross=False,
        recompute=recompute,
    )
