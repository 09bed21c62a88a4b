"""Sentence-level routing (Kudugunta et al. 2021, 2110.03742).

Axes: T tokens, D width, E experts, G routing groups.
"""

from typing import final

from jaxtyping import Float
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.routers import SentenceRouter
from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Couples, Router, RouterShape, build_router
from turnout.moe.routers.exploration import ArgmaxPolicy
from turnout.moe.routers.logits import LogitForm
from turnout.moe.routers.scores import linear_float32, without_padding
from turnout.moe.routers.softmax import SoftmaxRouter
from turnout.moe.routers.weights import AcceptAll
from turnout.moe.stats import group_sum


@final
class SentenceLogits(LogitForm):
    """``W m`` with m the mean over the real tokens of the routing group, so that all of them have
    the same logits and one decision.

    The paper pools the tokens of a sentence in this way; here the group stands for it. The
    weights are raw probabilities for any k, where the paper's are GShard's of two experts.
    """

    couples: Couples = "group"

    def weight_shape(self, shape: RouterShape) -> tuple[int, ...]:
        return shape.num_experts, shape.d_model

    def fan_in(self, shape: RouterShape) -> int:
        return shape.d_model

    def logits(
        self,
        tokens: Float[Tensor, "T D"],
        weight: Float[Tensor, "..."],
        context: RoutingContext,
    ) -> Float[Tensor, "T E"]:
        if context.partial:
            raise UserError(
                "moe.router.kind = 'sentence': its mean is over a whole routing group, which "
                "goes on outside these tokens (a KV cache, or rows apart); give whole groups"
            )
        group, groups = context.group.flatten(), context.num_groups
        tokens = without_padding(tokens, context.mask.flatten())
        real = group_sum(context.mask.flatten().to(tokens.dtype), group, groups)
        mean = group_sum(tokens, group, groups) / real.clamp(min=1).unsqueeze(1)
        return linear_float32(mean, weight).index_select(0, group)


@build_router.register
def _(config: SentenceRouter, shape: RouterShape) -> Router:
    return SoftmaxRouter(
        shape,
        choices=config.k,
        weights="raw",
        exploration=ArgmaxPolicy(),
        acceptance=AcceptAll(),
        form=SentenceLogits(),
    )
