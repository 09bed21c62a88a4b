"""Where a token stands: T5's learned bias by bucketed distance, or rotary embedding.

Axes: B batch, S sequence, H heads, Q queries, K keys, P half of a head's width.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.config.positions import RelativeBias
from turnout.nn.init import truncated_normal_


def relative_bucket(
    distance: Int[Tensor, "*N"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Tensor, "*N"]:
    """Bucket of ``distance`` = key position - query position (T5, 1910.10683, section 2.1).

    Bidirectional: keys after the query take the upper half of the buckets. Causal: keys after
    the query share bucket 0. In each half the first half of the buckets are exact, the others
    grow with the logarithm (float32, cut towards zero) and end at ``max_distance``.
    """
    back = -distance
    buckets = num_buckets
    offset = torch.zeros_like(back)
    if bidirectional:
        buckets = num_buckets // 2
        offset = (back < 0).long() * buckets
        back = back.abs()
    else:
        back = back.clamp(min=0)
    exact = buckets // 2
    share = torch.log(back.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = exact + (share * (buckets - exact)).long()
    return offset + torch.where(back < exact, back, far.clamp(max=buckets - 1))


@final
class RelativePositionBias(nn.Module):
    """A table [buckets, heads] in float32, added to the attention logits of one stack or layer."""

    def __init__(self, config: RelativeBias, num_heads: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.config = config
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.empty(config.num_buckets, num_heads))

    def init_weights(self, generator: torch.Generator, *, std: float) -> None:
        truncated_normal_(self.weight, std, generator)

    def forward(self, queries: int, keys: int, start: int = 0) -> Float[Tensor, "1 H Q K"]:
        """Bias of queries ``start ..`` on keys ``0 ..``.

        Distances are those of slots in the row: within a segment, whose tokens stand side by
        side, they are the distances of the tokens, wherever padding stands.
        """
        device = self.weight.device
        query = torch.arange(start, start + queries, device=device)
        key = torch.arange(keys, device=device)
        bucket = relative_bucket(
            key.unsqueeze(0) - query.unsqueeze(1),
            bidirectional=self.bidirectional,
            num_buckets=self.config.num_buckets,
            max_distance=self.config.max_distance,
        )
        return F.embedding(bucket, self.weight).permute(2, 0, 1).unsqueeze(0)


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of every token's angles, float32: one value serves all layers."""

    cos: Float[Tensor, "B 1 S P"]
    sin: Float[Tensor, "B 1 S P"]

    def apply(self, x: Float[Tensor, "B H S d"]) -> Float[Tensor, "B H S d"]:
        """Rotates the pairs (p, p + head_dim / 2) in float32; the result has the dtype of ``x``."""
        first, second = x.float().chunk(2, dim=-1)
        turned = (
            first * self.cos - second * self.sin,
            second * self.cos + first * self.sin,
        )
        return torch.cat(turned, dim=-1).to(x.dtype)


@dataclass(frozen=True)
class RotaryAngles:
    """Angle of pair p at position t: ``t * theta^(-2 p / head_dim)`` (RoFormer, 2104.09864)."""

    theta: float
    head_dim: int

    def at(self, position: Int[Tensor, "B S"]) -> Rotation:
        """The rotation of tokens at ``position``, the same for all heads."""
        pair = torch.arange(0, self.head_dim, 2, device=position.device, dtype=torch.float32)
        frequency = self.theta ** (-pair / self.head_dim)
        angle = position.float()[:, None, :, None] * frequency
        return Rotation(angle.cos(), angle.sin())
