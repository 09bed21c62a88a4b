"""Task-level routing (Kudugunta et al. 2021, 2110.03742). Axes: T tokens, D width, E experts."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from turnout.config.routers import TaskRouter
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Couples, Router, RouterShape, build_router
from turnout.moe.routers.exploration import ArgmaxPolicy
from turnout.moe.routers.labels import token_labels
from turnout.moe.routers.logits import LogitForm
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll


@final
class TaskLogits(LogitForm):
    """``weight[label]`` with weight [tasks, E].

    The paper's router is linear in an embedding of the task: a table of its products. The
    weights are raw probabilities for any k, where the paper's are GShard's of two experts.
    """

    couples: Couples = "none"

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def weight_shape(self, shape: RouterShape) -> tuple[int, ...]:
        return self.tasks, shape.num_experts

    def fan_in(self, shape: RouterShape) -> int:
        return 1

    def logits(
        self,
        tokens: Float[Tensor, "T D"],
        weight: Float[Tensor, "..."],
        context: RoutingContext,
    ) -> Float[Tensor, "T E"]:
        label = token_labels(context, self.tasks, TaskRouter.kind)
        return weight.float().index_select(0, label)


@build_router.register
def _(config: TaskRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.k,
        weights="raw",
        exploration=ArgmaxPolicy(),
        acceptance=AcceptAll(),
        form=TaskLogits(config.tasks),
    )
