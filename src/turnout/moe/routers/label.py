"""Routing by the row's label (DEMix layers, Gururangan et al. 2021, 2108.05036).

Axes: B batch, S sequence, D width.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.routers import LabelRouter
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Router, RouterShape, build_router
from turnout.moe.routers.fixed import certain, fixed_routing
from turnout.moe.routers.labels import token_labels
from turnout.moe.stats import RouterStats


@final
class ByLabel(Router):
    """``expert = label of the row``, weight 1.

    DEMix trains an expert a domain so. The paper's mixing of experts over an unknown domain at
    inference is not here: evaluation needs the label too.
    """

    def __init__(self, labels: int, num_experts: int) -> None:
        super().__init__()
        self.labels = labels
        self.num_experts = num_experts

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """There is nothing to fill."""

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        expert = token_labels(context, self.labels, LabelRouter.kind).unsqueeze(1)
        return fixed_routing(expert, certain(expert, self.num_experts), context)


@build_router.register
def _(config: LabelRouter, shape: RouterShape) -> Router:
    return ByLabel(config.labels, shape.num_experts)
