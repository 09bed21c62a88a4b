"""Balancers: what moves a bias on the scores after each step. Axes: E experts."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.routers.base import Balancer


@final
class LoadBias(Balancer):
    """``b_i += rate * sign(mean load - load_i)`` (DeepSeek-V3, 2412.19437, section 2.1.2).

    Attributes:
        bias: b, float32, added to the scores that choose.
    """

    bias: Float[Tensor, " E"]

    def __init__(self, num_experts: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("bias", torch.zeros(num_experts, dtype=torch.float32))

    def after_step(self, assigned: Int[Tensor, " E"], tokens: int) -> None:
        # In integers, where the mean load times E is the sum: equality is exact.
        below = torch.sign(assigned.sum() - assigned.shape[0] * assigned)
        self.bias.add_(self.rate * below)

    def reset(self) -> None:
        self.bias.zero_()


@final
class Budget(Balancer):
    """``b += rate * sign(mean experts a token - budget)``: b makes it easier to take none.

    A controller of ours for null experts (2406.13233), in the form of DeepSeek-V3's bias.

    Attributes:
        bias: b, float32, one number.
    """

    bias: Float[Tensor, ""]

    def __init__(self, budget: float, rate: float) -> None:
        super().__init__()
        self.budget = budget
        self.rate = rate
        self.register_buffer("bias", torch.zeros((), dtype=torch.float32))

    def after_step(self, assigned: Int[Tensor, " E"], tokens: int) -> None:
        above = torch.sign(assigned.sum().double() - self.budget * tokens)
        self.bias.add_(self.rate * above)

    def reset(self) -> None:
        self.bias.zero_()
