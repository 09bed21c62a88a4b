"""Where a token stands: T5's learned bias by bucketed distance, rotary embedding, or sinusoids.

Axes: B batch, S sequence, D width, H heads, Q queries, K keys, P half of a head's width.
"""

import math
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.config.positions import RelativeBias
from turnout.nn.init import truncated_normal_
from turnout.nn.rotary_scaling import Scaling, Unscaled


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
    interleaved: bool = False

    def apply(self, x: Float[Tensor, "B H S d"]) -> Float[Tensor, "B H S d"]:
        """Rotates the pairs (p, p + P), or interleaved (2 p, 2 p + 1), in float32; what stands
        behind the first 2 P passes. The result has the dtype of ``x``."""
        width = 2 * self.cos.shape[-1]
        wide = x[..., :width].float()
        if self.interleaved:
            first, second = wide.view(*wide.shape[:-1], -1, 2).unbind(-1)
        else:
            first, second = wide.chunk(2, dim=-1)
        turned = (
            first * self.cos - second * self.sin,
            second * self.cos + first * self.sin,
        )
        if self.interleaved:
            done = torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
        else:
            done = torch.cat(turned, dim=-1).to(x.dtype)
        return done if width == x.shape[-1] else torch.cat((done, x[..., width:]), dim=-1)


@dataclass(frozen=True)
class RotaryAngles:
    """Angle of pair p at position t: ``t * theta^(-2 p / width)`` (RoFormer, 2104.09864), with
    ``width`` what is rotated of a head; ``scaling`` changes it."""

    theta: float
    width: int
    scaling: Scaling = field(default_factory=Unscaled)
    interleaved: bool = False

    def at(self, position: Int[Tensor, "B S"]) -> Rotation:
        """The rotation of tokens at ``position``, the same for all heads."""
        pair = torch.arange(0, self.width, 2, device=position.device, dtype=torch.float32)
        frequency = self.scaling.scaled(self.theta ** (-pair / self.width), self.theta)
        angle = position.float()[:, None, :, None] * frequency
        magnitude = self.scaling.magnitude
        return Rotation(angle.cos() * magnitude, angle.sin() * magnitude, self.interleaved)


@dataclass(frozen=True)
class Sinusoids:
    """What is added to the embeddings of tokens, by their positions (``config.Sinusoidal``)."""

    width: int
    offset: int
    theta: float

    def at(self, position: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Float32, one vector a token."""
        pairs = self.width // 2
        place = torch.arange(pairs, device=position.device, dtype=torch.float32)
        frequency = torch.exp(place * -(math.log(self.theta) / (pairs - 1)))
        angle = (position + self.offset).float().unsqueeze(-1) * frequency
        both = torch.cat((angle.sin(), angle.cos()), dim=-1)
        return F.pad(both, (0, self.width - 2 * pairs))
