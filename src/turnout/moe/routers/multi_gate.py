"""Multi-gate mixture of experts (Ma et al. 2018). Axes: B batch, T tokens, D width, E experts."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.routers import MultiGateRouter
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Couples, Router, RouterShape, build_router
from turnout.moe.routers.exploration import ArgmaxPolicy
from turnout.moe.routers.labels import row_labels
from turnout.moe.routers.logits import LogitForm
from turnout.moe.routers.scores import without_padding
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@final
class MultiGateLogits(LogitForm):
    """``W_label x`` with weight [tasks, E, D]: a row meets the matrix of its own task alone.

    The paper takes all experts, weighted by the softmax; that is ``k`` = E. Fewer is ours.
    """

    couples: Couples = "none"

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def weight_shape(self, shape: RouterShape) -> tuple[int, ...]:
        return self.tasks, shape.num_experts, shape.d_model

    def fan_in(self, shape: RouterShape) -> int:
        return shape.d_model

    def logits(
        self,
        tokens: Float[Tensor, "T D"],
        weight: Float[Tensor, "..."],
        context: RoutingContext,
    ) -> Float[Tensor, "T E"]:
        label = row_labels(context, self.tasks, MultiGateRouter.kind)
        rows = without_padding(tokens, context.mask.flatten())
        rows = rows.view(*context.mask.shape, rows.shape[1])
        own = weight.float().index_select(0, label)  # [B, E, D]
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            return torch.bmm(rows, own.transpose(1, 2)).flatten(0, 1)


@build_router.register
def _(config: MultiGateRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.k,
        weights="raw",
        exploration=ArgmaxPolicy(),
        acceptance=AcceptAll(),
        form=MultiGateLogits(config.tasks),
    )
