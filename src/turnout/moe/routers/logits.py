"""What the logits of a softmax router come from.

Axes: T tokens, D width, E experts.
"""

from abc import ABC, abstractmethod
from typing import final

from jaxtyping import Float
from torch import Tensor

from turnout.moe.context import RoutingContext
from turnout.moe.routers.base import Couples, RouterShape
from turnout.moe.routers.masked_product import masked_product


class LogitForm(ABC):
    """Turns tokens and the router's one weight into logits, float32.

    Attributes:
        couples: what a token's logits depend on beside the token, in training and in evaluation.
        linear: whether they are the product of the token and the weight, beside which an adapter
            may then stand.
    """

    couples: Couples
    linear: bool = False

    @abstractmethod
    def weight_shape(self, shape: RouterShape) -> tuple[int, ...]:
        """Shape of the weight."""

    @abstractmethod
    def fan_in(self, shape: RouterShape) -> int:
        """Entries of the weight that add up to one logit, by which its first values are scaled."""

    @abstractmethod
    def logits(
        self,
        tokens: Float[Tensor, "T D"],
        weight: Float[Tensor, "..."],
        context: RoutingContext,
    ) -> Float[Tensor, "T E"]:
        """The logits of every token; where there is padding ``tokens`` may hold anything.

        Raises:
            UserError: the context lacks what they are made from.
        """


@final
class LinearLogits(LogitForm):
    """``W x`` with W [E, D]."""

    couples: Couples = "none"
    linear = True

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
        return masked_product(tokens, context.mask.flatten(), weight)
