"""What every router is. Axes: B batch, S sequence, D width, T tokens = B * S, E experts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.stats import RouterStats

Couples = Literal["none", "past", "group"]


@dataclass(frozen=True)
class RouterShape:
    """What a router is built for, beside its own configuration.

    Attributes:
        d_model: width of the hidden states.
        num_experts: experts in all, over every device.
        layer: number of the layer in the model, which salts its noise.
        init_scale: s of the truncated normal of std sqrt(s / fan_in).
        slots: of an expert in a routing group at capacity factor 1, where the configured tokens
            of a group are known; for routers that fill slots themselves.
        vocab_size: entries of the vocabulary, for routers that read token ids.
    """

    d_model: int
    num_experts: int
    layer: int = 0
    init_scale: float = 0.1
    slots: int | None = None
    vocab_size: int | None = None


class Balancer(nn.Module, ABC):
    """A part of a router that follows the loads of the experts, a step at a time, without a loss.

    Its state is a float32 buffer: outside weight decay, gradients and reduced precision, and in
    every checkpoint.
    """

    @abstractmethod
    def after_step(self, assigned: Int[Tensor, " E"], tokens: int) -> None:
        """Adapts to a step's loads; called once an optimiser step that was not skipped.

        Args:
            assigned: live assignments of each expert, over all micro-batches and ranks.
            tokens: real tokens that were routed.
        """

    @abstractmethod
    def reset(self) -> None:
        """The state that training starts from."""


class Router(nn.Module, ABC):
    """Scores tokens against experts and assigns them; knows nothing of capacity or losses.

    Attributes:
        couples: what a token's decision depends on beside itself in training: ``none``,
            ``past`` (earlier tokens of its group), ``group`` (any token of its group).
        couples_in_evaluation: the same in evaluation.
        choices: candidates a token names.
        active: experts that compute a token when nothing is dropped.
        at_most: how many of its candidates a token may occupy; None for all.
        balancer: what follows the loads beside the gradient; None for most.
    """

    def __init__(
        self,
        *,
        choices: int = 1,
        active: int | None = None,
        at_most: int | None = None,
        couples: Couples = "none",
        couples_in_evaluation: Couples = "none",
        balancer: Balancer | None = None,
    ) -> None:
        """``active`` None stands for all choices."""
        super().__init__()
        self.choices = choices
        self.active = choices if active is None else active
        self.at_most = at_most
        self.couples = couples
        self.couples_in_evaluation = couples_in_evaluation
        self.balancer = balancer

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
def build_router(config: object, shape: RouterShape) -> Router:
    """Builds the router a configuration names; each router's file registers its own.

    Raises:
        ConfigError: the configuration does not fit the shape.
        TypeError: no router is registered for this configuration class.
    """
    raise TypeError(f"no router is registered for {type(config).__name__}")
