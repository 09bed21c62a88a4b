"""Multi-head and grouped-query attention, to the row itself or to an encoder's states.

Axes: B batch, S sequence, D width, H heads, Q queries, K keys, d width of a key, e of a value.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from turnout.config.attention import AttentionConfig
from turnout.nn import dropped_attention, learned_bias, one_query
from turnout.nn.biased import Biased, Mask, in_one
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import Linear
from turnout.nn.norms import RMSNorm
from turnout.nn.positions import Rotation


@dataclass(frozen=True)
class KeyValues:
    """Keys (normalised and rotated) and values of one layer; KV are its key-value heads.

    Of latent attention the one rotated part of all keys, and the latents, as values.
    """

    keys: Float[Tensor, "B KV K d"]
    values: Float[Tensor, "B KV K e"]

    def to(self, dtype: torch.dtype) -> "KeyValues":
        """The same in another dtype, each head's in one piece."""
        return KeyValues(self.keys.to(dtype).contiguous(), self.values.to(dtype).contiguous())


@dataclass(frozen=True)
class Slots:
    """One layer's part of a cache: room for M tokens, of which ``used`` are written."""

    keys: Float[Tensor, "B KV M d"]
    values: Float[Tensor, "B KV M e"]
    used: int

    def extend(self, new: KeyValues) -> KeyValues:
        """Writes ``new`` behind what is there, in place, and returns all that is written, in the
        dtype of the room; in its own where there was nothing."""
        end = self.used + new.keys.shape[2]
        self.keys[:, :, self.used : end] = new.keys
        self.values[:, :, self.used : end] = new.values
        if self.used == 0:
            return new
        return KeyValues(self.keys[:, :, :end], self.values[:, :, :end])


def attention_mask(
    query_segment: Int[Tensor, "B Q"],
    key_segment: Int[Tensor, "B K"],
    key_mask: Bool[Tensor, "B K"],
    *,
    causal: bool,
    start: int = 0,
    visible: Bool[Tensor, "B K"] | None = None,
    window: int | None = None,
) -> Bool[Tensor, "B 1 Q K"]:
    """True where query slot ``start + q`` may read key slot ``k``.

    A query reads real tokens of its own segment; if ``causal``, those not after itself, and those
    that are ``visible`` wherever they stand (T5, 1910.10683, figure 4, right), and of both only
    those less than ``window`` away, where there is one. Padding has
    nothing to read; such a query is let to read everything, so that no row of the softmax is
    empty: it stays finite on every kernel and nobody reads it.
    """
    allowed = (query_segment.unsqueeze(2) == key_segment.unsqueeze(1)) & key_mask.unsqueeze(1)
    if causal:
        device = key_mask.device
        query = torch.arange(start, start + query_segment.shape[1], device=device)
        key = torch.arange(key_segment.shape[1], device=device)
        in_time = key.unsqueeze(0) <= query.unsqueeze(1)
        allowed = allowed & (in_time if visible is None else in_time | visible.unsqueeze(1))
        if window is not None:
            allowed = allowed & ((key.unsqueeze(0) - query.unsqueeze(1)).abs() < window)
    return (allowed | ~allowed.any(-1, keepdim=True)).unsqueeze(1)


def with_sinks(
    read: KeyValues, mask: Mask, sinks: Float[Tensor, " H"]
) -> tuple[KeyValues, Biased | Float[Tensor, "B H Q K+1"]]:
    """One more key and value of zeros, and the mask with the sinks as the bias of that key.

    Its logit is then the sink itself, and its value adds nothing to the sum: the softmax with sinks
    (gpt-oss) in the form of a kernel that knows none.
    """
    padded = KeyValues(F.pad(read.keys, (0, 0, 0, 1)), F.pad(read.values, (0, 0, 0, 1)))
    column = sinks.to(read.keys.dtype)[:, None, None]
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        batch, _, queries, _ = mask.shape
        return padded, torch.cat((mask, column.expand(batch, -1, queries, 1)), dim=-1)
    allowed = mask.allowed if isinstance(mask, Biased) else mask
    queries, keys = allowed.shape[2:]
    bias = mask.bias if isinstance(mask, Biased) else column.new_zeros(1, 1, 1, 1)
    own = bias.to(column.dtype).expand(1, sinks.shape[0], queries, keys)
    joined = torch.cat((own, column.expand(1, -1, queries, 1)), dim=-1)
    return padded, Biased(joined, F.pad(allowed, (0, 1), value=True))


class AttentionBase(nn.Module, ABC):
    """What attention does with its projections, whoever makes them: heads, optional norms on
    queries and keys, the weighted sum with optional sinks, the output projection.

    Weights are float32 and cast to the dtype of the rows; norms and rotation are float32 inside.
    """

    def __init__(
        self,
        d_model: int,
        config: AttentionConfig,
        *,
        epsilon: float,
        dropout: float,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        by_width = config.head_dim**-0.5 if config.scaled else 1.0
        self.scale = by_width if scale is None else scale
        self.out = Linear(config.q_width, d_model, bias=config.bias == "all")
        widths = {
            "none": None,
            "head": (config.head_dim, config.head_dim),
            "full": (config.q_width, config.kv_width),
        }[config.qk_norm]
        self.query_norm = None if widths is None else RMSNorm(widths[0], epsilon)
        self.key_norm = None if widths is None else RMSNorm(widths[1], epsilon)
        self.sinks = nn.Parameter(torch.empty(config.num_heads)) if config.sinks else None

    @abstractmethod
    def init_weights(
        self, generator: torch.Generator, *, std: float | None = None, scale: float = 1.0
    ) -> None:
        """Fan-in: ``sqrt(scale / inputs)``, or ``std`` for every matrix where given.

        Without the division of the logits by ``sqrt(head_dim)`` the query's deviation takes it,
        as in T5: ``(d_model * head_dim)^-0.5``.
        """

    @property
    def query_scale(self) -> float:
        """Factor on a query's initial variance: what the logits are not divided by."""
        return 1.0 if self.config.scaled else 1.0 / self.config.head_dim

    def as_read(
        self,
        keys: Float[Tensor, "B K W"],
        values: Float[Tensor, "B K W"],
        rotation: Rotation | None,
    ) -> KeyValues:
        """Projected keys and values as heads, keys normalised and rotated."""
        split = self._heads(keys, self.config.kv_heads, self.key_norm)
        return KeyValues(
            split if rotation is None else rotation.apply(split),
            self._heads(values, self.config.kv_heads, None),
        )

    def attend(
        self,
        queries: Float[Tensor, "B Q W"],
        read: KeyValues,
        mask: Mask,
        rotation: Rotation | None,
    ) -> Float[Tensor, "B Q D"]:
        """Projected queries over the keys and values of ``read``."""
        split = self._heads(queries, self.config.num_heads, self.query_norm)
        split = split if rotation is None else rotation.apply(split)
        if self.sinks is not None:
            read, mask = with_sinks(read, mask, self.sinks)
        dtype = read.keys.dtype  # a cache's may be wider
        split = split.to(dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = self._mixed(split, read, mask, dropout)
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2).to(queries.dtype))
        return joined

    def _mixed(
        self, queries: Float[Tensor, "B H Q d"], read: KeyValues, mask: Mask, dropout: float
    ) -> Float[Tensor, "B H Q e"]:
        """The heads' weighted sums, by the operator that keeps least."""
        keys, values = read.keys, read.values
        if one_query.takes(queries, dropout):
            return one_query.attention(queries, keys, values, mask, self.scale)
        if isinstance(mask, Biased) and learned_bias.takes(queries, keys, values, mask, dropout):
            return learned_bias.attention(queries, keys, values, mask, self.scale)
        whole = in_one(mask, queries.dtype)
        if dropped_attention.takes(queries, dropout):
            return dropped_attention.attention(queries, keys, values, whole, dropout, self.scale)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=whole,
            dropout_p=dropout,
            scale=self.scale,
            enable_gqa=self.config.kv_heads != self.config.num_heads,
        )

    def init_shared(self) -> None:
        """Norms of one, sinks of zero: the weight of one key that a query is orthogonal to."""
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)
        for norm in (self.query_norm, self.key_norm):
            if norm is not None:
                norm.init_weights()

    def _heads(
        self, x: Float[Tensor, "B S W"], heads: int, norm: RMSNorm | None
    ) -> Float[Tensor, "B h S d"]:
        """Splits the last dimension into heads; a norm acts over a head or over the whole."""
        if norm is not None and self.config.qk_norm == "full":
            x = norm(x)
        split = x.view(*x.shape[:2], heads, self.config.head_dim).transpose(1, 2)
        if norm is not None and self.config.qk_norm == "head":
            split = norm(split)
        return split


@final
class Attention(AttentionBase):
    """Dense projections, with biases as the configuration says."""

    def __init__(
        self,
        d_model: int,
        config: AttentionConfig,
        *,
        epsilon: float,
        dropout: float,
        scale: float | None = None,
    ) -> None:
        super().__init__(d_model, config, epsilon=epsilon, dropout=dropout, scale=scale)
        bias = config.bias != "none"
        self.query = Linear(d_model, config.q_width, bias=bias)
        self.key = Linear(d_model, config.kv_width, bias=bias)
        self.value = Linear(d_model, config.kv_width, bias=bias)

    def init_weights(
        self, generator: torch.Generator, *, std: float | None = None, scale: float = 1.0
    ) -> None:
        """See ``AttentionBase.init_weights``; biases 0."""
        for linear in (self.query, self.key, self.value, self.out):
            own = scale * (self.query_scale if linear is self.query else 1.0)
            matrix_normal_(linear.weight, generator, scale=own, std=std)
            linear.init_bias()
        self.init_shared()

    def project(
        self, source: Float[Tensor, "B K D"], rotation: Rotation | None = None
    ) -> KeyValues:
        """Keys and values of ``source``, the row itself or an encoder's states."""
        return self.as_read(self.key(source), self.value(source), rotation)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        read: KeyValues,
        mask: Mask,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """Queries of ``x`` over the keys and values of ``read``.

        ``mask`` is True where a query may read, or a bias with minus infinity elsewhere, or both
        apart.
        """
        return self.attend(self.query(x), read, mask, rotation)
