"""Experts that every token passes, weighed by a gate. Axes: B batch, S sequence, D width."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.config.feed_forward import FeedForwardConfig
from turnout.nn.feed_forward import FeedForward
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import Linear


@final
class GatedShared(nn.Module):
    """``sigmoid(w x) F(x)`` with F the shared experts as one network (Qwen2-MoE, 2407.10671)."""

    def __init__(self, d_model: int, config: FeedForwardConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = FeedForward(d_model, config, dropout)
        self.gate = Linear(d_model, 1)

    def init_weights(
        self,
        generator: torch.Generator | None = None,
        *,
        std: float | None = None,
        scale: float = 1.0,
    ) -> None:
        """Network and gate by the same rule."""
        self.network.init_weights(generator, std=std, scale=scale)
        matrix_normal_(self.gate.weight, generator, scale=scale, std=std)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        gated: Tensor = torch.sigmoid(self.gate(x)) * self.network(x)
        return gated


SharedExperts = FeedForward | GatedShared
