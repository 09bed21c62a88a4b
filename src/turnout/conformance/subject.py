"""What the kit examines: a sparse layer that can be built again and again with equal weights.

Axes: B batch, S sequence, D width, E experts, T tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import RouterConfig
from turnout.conformance.examples import zero_z
from turnout.conformance.samples import LENGTH, VOCABULARY
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.dispatch import build_dispatcher
from turnout.moe.experts import ExpertStack
from turnout.moe.layer import MoELayer
from turnout.moe.stats import LayerDecision, LayerStats

EXPERTS, WIDTH = 8, 16


@dataclass(frozen=True)
class Setting:
    """A form in which a subject is asked for.

    Attributes:
        capacity: capacity factor in training; None drops nothing.
        evaluation: capacity factor in evaluation.
        identity: experts that return what they get, so that outputs show weights and inputs.
    """

    capacity: float | None = None
    evaluation: float | None = None
    identity: bool = False


@dataclass(frozen=True)
class Seen:
    """What a layer said: its output, and its report and decisions where it gives any.

    Attributes:
        overwritten: whether it wrote into its input.
    """

    y: Float[Tensor, "B S D"]
    stats: LayerStats | None = None
    decision: LayerDecision | None = None
    overwritten: bool = False


class Subject(ABC):
    """A sparse layer under examination.

    Attributes:
        name: for the verdict.
        d_model: width of what it reads.
        white_box: whether its layers are MoELayers, or wrap one, with router and experts to see.
        takes_capacity: whether Setting's factors have an effect.
        pads: whether it can be told which tokens are padding.
        zero_z: the router z-loss of zero logits.
    """

    name: str
    d_model: int
    white_box: bool
    takes_capacity: bool
    pads: bool
    zero_z: float

    @abstractmethod
    def layer(self, setting: Setting) -> nn.Module:
        """A new layer in this form, in training mode, with the same weights each time."""

    @abstractmethod
    def see(self, layer: nn.Module, x: Float[Tensor, "B S D"], context: RoutingContext) -> Seen:
        """What the layer says of ``x``."""

    @abstractmethod
    def causal(self, setting: Setting) -> bool:
        """Whether it claims that no output depends on later tokens."""

    @abstractmethod
    def batch_invariant(self, setting: Setting) -> bool:
        """Whether it claims that, in evaluation, no row depends on the others."""


@final
class RouterLayer(Subject):
    """A layer of ours around a router, of the package's or of a user's own."""

    white_box, takes_capacity, pads = True, True, True
    d_model = WIDTH

    def __init__(self, router: RouterConfig, name: str | None = None, num_experts: int = EXPERTS):
        self.router = router
        self.name = router.kind if name is None else name
        self.num_experts = num_experts
        self.zero_z = zero_z(router, num_experts)

    def layer(self, setting: Setting) -> MoELayer:
        config = MoEConfig(
            self.num_experts,
            self.router,
            train_capacity_factor=setting.capacity,
            eval_capacity_factor=setting.evaluation,
            min_capacity=1,
        )
        layer = build_layer(
            config,
            d_model=WIDTH,
            feed_forward=FeedForwardConfig(2 * WIDTH),
            group_tokens=LENGTH,
            vocab_size=VOCABULARY,
        )
        generator = torch.Generator().manual_seed(1)
        layer.init_weights(generator)
        # Decided routers, so that loads differ; experts whose outputs are as large as their inputs.
        for weight in layer.parameters():
            nn.init.normal_(weight, std=WIDTH**-0.5, generator=generator)
        return with_identity(layer).train() if setting.identity else layer.train()

    def see(self, layer: nn.Module, x: Float[Tensor, "B S D"], context: RoutingContext) -> Seen:
        return Seen(*layer(x, context))

    def causal(self, setting: Setting) -> bool:
        return self.layer(setting).causal

    def batch_invariant(self, setting: Setting) -> bool:
        return self.layer(setting).batch_invariant


@final
class Identity(ExpertStack):
    """Experts that return what they get."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.init_scale = 1.0

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        return None

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N D"]:
        return rows


def with_identity(layer: MoELayer) -> MoELayer:
    """The same router with identity experts."""
    return MoELayer(
        layer.router,
        Identity(layer.experts.num_experts),
        build_dispatcher("sorted"),
        priority=layer.priority,
        capacity=layer.capacity,
        name=layer.name,
        stack=layer.stack,
    )


def assigned(
    layer: nn.Module, x: Float[Tensor, "B S D"], context: RoutingContext
) -> Float[Tensor, "T E"]:
    """Combine weights as the router gives them, before capacity, by token and expert."""
    router = cast(MoELayer, layer).router
    experts = cast(MoELayer, layer).experts.num_experts
    assignment, _ = router(x, context)
    place = assignment.token * experts + assignment.expert
    weight = torch.where(assignment.live, assignment.weight, 0.0).detach()
    return (
        weight.new_zeros(assignment.num_tokens * experts)
        .index_add(0, place, weight)
        .view(-1, experts)
    )


def table(decision: LayerDecision, num_experts: int) -> Float[Tensor, "T E"]:
    """Combine weights of the kept assignments, by token and expert."""
    expert = decision.expert.flatten(0, 1)
    weight = decision.weight.flatten(0, 1)
    columns = torch.where(expert < 0, num_experts, expert)
    return weight.new_zeros(expert.shape[0], num_experts + 1).scatter_add(1, columns, weight)[
        :, :-1
    ]


def chosen(decision: LayerDecision, num_experts: int) -> Int[Tensor, "T E"]:
    """How often each token has each expert: 0 or 1 in a sound layer."""
    expert = decision.expert.flatten(0, 1)
    columns = torch.where(expert < 0, num_experts, expert)
    ones = torch.ones_like(expert)
    return ones.new_zeros(expert.shape[0], num_experts + 1).scatter_add(1, columns, ones)[:, :-1]
