"""The order in which assignments are served, and so which of them a full expert drops.

Axes: T tokens, K choices, N assignments.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from turnout.config import moe as config
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream, token_noise


class Priority(ABC):
    """Orders assignments; an order is a permutation of 0 .. N - 1, first served first."""

    @abstractmethod
    def order(self, assignment: Assignment, context: RoutingContext) -> Int[Tensor, " N"]:
        """The serving order. Choices of one token always stand in ascending order."""

    @abstractmethod
    def causal(self, choices: int) -> bool:
        """Whether no later token is ever served before an earlier one."""

    @abstractmethod
    def noiseless(self) -> "Priority":
        """The priority that evaluation uses: this one, unless it draws random numbers."""


@final
class TokenOrder(Priority):
    """Token by token, all choices of one before the next: the causal order, and the default."""

    def order(self, assignment: Assignment, context: RoutingContext) -> Int[Tensor, " N"]:
        return torch.argsort(assignment.token, stable=True)

    def causal(self, choices: int) -> bool:
        return True

    def noiseless(self) -> Priority:
        return self


@final
class ChoiceOrder(Priority):
    """All first choices, then all second ones (Mesh-TF, GShard, Flaxformer)."""

    def order(self, assignment: Assignment, context: RoutingContext) -> Int[Tensor, " N"]:
        by_token = torch.argsort(assignment.token, stable=True)
        return _then(by_token, assignment.choice)

    def causal(self, choices: int) -> bool:
        return choices == 1

    def noiseless(self) -> Priority:
        return self


@final
class ScoreOrder(Priority):
    """Batch prioritized routing (V-MoE, 2106.05974): choices in turn, best first choices first.

    Tokens stand by the probability of their first choice, ties by token.
    """

    def order(self, assignment: Assignment, context: RoutingContext) -> Int[Tensor, " N"]:
        score = torch.where(assignment.choice == 0, assignment.log_probability.detach(), -torch.inf)
        top = score.new_full((assignment.num_tokens,), -torch.inf)
        top = top.scatter_reduce(0, assignment.token, score, "amax")
        by_token = torch.argsort(assignment.token, stable=True)
        return _then(_then(by_token, -top.index_select(0, assignment.token)), assignment.choice)

    def causal(self, choices: int) -> bool:
        return False

    def noiseless(self) -> Priority:
        return self


@final
@dataclass(frozen=True)
class RandomOrder(Priority):
    """Tokens in random order, choices in turn; the draw is stateless, salted by the layer."""

    layer: int

    def order(self, assignment: Assignment, context: RoutingContext) -> Int[Tensor, " N"]:
        draw = token_noise(context, self.layer).uniform(Stream.ORDER, 1).squeeze(1)
        by_token = torch.argsort(assignment.token, stable=True)
        return _then(_then(by_token, draw.index_select(0, assignment.token)), assignment.choice)

    def causal(self, choices: int) -> bool:
        return False

    def noiseless(self) -> Priority:
        return TokenOrder()


def build_priority(name: config.Priority, layer: int) -> Priority:
    """The priority of that name for layer number ``layer``."""
    orders: dict[str, Priority] = {
        "token": TokenOrder(),
        "choice": ChoiceOrder(),
        "score": ScoreOrder(),
        "random": RandomOrder(layer),
    }
    return orders[name]


def _then(order: Int[Tensor, " N"], key: Tensor) -> Int[Tensor, " N"]:
    """Sorts an order by a further, more significant key, keeping it where keys tie."""
    return order.index_select(0, torch.argsort(key.index_select(0, order), stable=True))
