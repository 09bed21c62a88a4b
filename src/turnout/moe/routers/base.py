"""What every router is. Axes: B batch, S sequence, D width, T tokens = B * S, E experts."""

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.stats import RouterStats

Couples = Literal["none", "past", "group"]


class Router(nn.Module, ABC):
    """Scores tokens against experts and assigns them; knows nothing of capacity or losses.

    Attributes:
        couples: what a token's decision depends on beside itself: ``none``, ``past`` (earlier
            tokens of its group), ``group`` (any token of its group).
        choices: candidates a token names.
        active: experts that compute a token when nothing is dropped.
        at_most: how many of its candidates a token may occupy; None for all.
    """

    couples: Couples
    choices: int
    active: int
    at_most: int | None

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        """Routes every token; float32 inside whatever the dtype of ``x`` or the surroundings.

        Noise acts on a copy of ``x``, in training mode only.
        """

    @abstractmethod
    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Draws the initial weights; ``std`` replaces the fan-in rule where the router has one."""


@singledispatch
def build_router(
    config: object, *, d_model: int, num_experts: int, layer: int, init_scale: float
) -> Router:
    """Builds the router a configuration names; each router's file registers its own.

    Args:
        d_model: width of the hidden states.
        num_experts: experts in all, over every device.
        layer: number of the layer in the model, which salts its noise.
        init_scale: s of the truncated normal of std sqrt(s / fan_in).

    Raises:
        TypeError: no router is registered for this configuration class.
    """
    raise TypeError(f"no router is registered for {type(config).__name__}")
