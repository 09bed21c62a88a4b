"""Multi-head latent attention (DeepSeek-V2, 2405.04434, section 2.1).

Axes: B batch, Q queries, K keys, D width, H heads, R rotated part, C latent, d width of a head.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.latent_attention import LatentAttention as LatentAttentionConfig
from turnout.nn import dropped_attention, one_query
from turnout.nn.attention import KeyValues
from turnout.nn.biased import Mask, in_one
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import Linear
from turnout.nn.norms import RMSNorm
from turnout.nn.positions import Rotation


@final
class LatentAttention(nn.Module):
    """Keys and values are projected up from a latent when they are read, so that what a cache
    holds of a token is its normalised latent and one rotated key part for all heads.

    Weights are float32 and cast to the dtype of the rows; norms and rotation are float32 inside.
    """

    def __init__(
        self,
        d_model: int,
        config: LatentAttentionConfig,
        *,
        epsilon: float,
        dropout: float,
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.scale = config.qk_head_dim**-0.5 * logit_scale
        rank, down = config.q_lora_rank, config.kv_lora_rank + config.qk_rope_head_dim
        up = config.num_heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.query_down = None if rank is None else Linear(d_model, rank)
        self.query_norm = None if rank is None else RMSNorm(rank, epsilon)
        self.query = Linear(d_model if rank is None else rank, config.q_width)
        self.latent = Linear(d_model, down)
        self.latent_norm = RMSNorm(config.kv_lora_rank, epsilon)
        self.key_value = Linear(config.kv_lora_rank, up)
        self.out = Linear(config.v_width, d_model)

    def init_weights(
        self, generator: torch.Generator, *, std: float | None = None, scale: float = 1.0
    ) -> None:
        """Fan-in: ``sqrt(scale / inputs)``, or ``std`` for every matrix where given; norms 1."""
        for linear in (self.query_down, self.query, self.latent, self.key_value, self.out):
            if linear is not None:
                matrix_normal_(linear.weight, generator, scale=scale, std=std)
        for norm in (self.query_norm, self.latent_norm):
            if norm is not None:
                norm.init_weights()

    def project(
        self, source: Float[Tensor, "B K D"], rotation: Rotation | None = None
    ) -> KeyValues:
        """What is kept of ``source``: as keys the rotated part [B 1 K R], as values the normalised
        latent [B 1 K C]."""
        parts = (self.config.kv_lora_rank, self.config.qk_rope_head_dim)
        latent, part = self.latent(source).unsqueeze(1).split(parts, dim=-1)
        return KeyValues(_rotated(part, rotation), self.latent_norm(latent))

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        read: KeyValues,
        mask: Mask,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Queries of ``x`` over the keys and values that ``read`` is projected up to."""
        keys, values = self._up(read.to(x.dtype))
        queries = self._queries(x, rotation)
        whole = in_one(mask, queries.dtype)
        dropout = self.dropout if self.training else 0.0
        if one_query.takes(queries, dropout):
            mixed = one_query.attention(queries, keys, values, mask, self.scale)
        elif dropped_attention.takes(queries, dropout):
            mixed = dropped_attention.attention(queries, keys, values, whole, dropout, self.scale)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=whole, dropout_p=dropout, scale=self.scale
            )
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return joined

    def _queries(
        self, x: Float[Tensor, "B Q D"], rotation: Rotation | None
    ) -> Float[Tensor, "B H Q d"]:
        config = self.config
        if self.query_down is not None and self.query_norm is not None:
            x = self.query_norm(self.query_down(x))
        heads = self.query(x).view(*x.shape[:2], config.num_heads, -1).transpose(1, 2)
        plain, part = heads.split((config.qk_nope_head_dim, config.qk_rope_head_dim), dim=-1)
        return torch.cat((plain, _rotated(part, rotation)), dim=-1)

    def _up(self, read: KeyValues) -> tuple[Float[Tensor, "B H K d"], Float[Tensor, "B H K e"]]:
        config = self.config
        both = self.key_value(read.values.squeeze(1))
        heads = both.view(*both.shape[:2], config.num_heads, -1).transpose(1, 2)
        plain, values = heads.split((config.qk_nope_head_dim, config.v_head_dim), dim=-1)
        part = read.keys.expand(-1, config.num_heads, -1, -1)
        return torch.cat((plain, part), dim=-1), values


def _rotated(part: Float[Tensor, "B H S R"], rotation: Rotation | None) -> Float[Tensor, "B H S R"]:
    return part if rotation is None else rotation.apply(part)
