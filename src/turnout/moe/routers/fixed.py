"""Routers without parameters: what they assign and report.

Axes: T tokens, E experts, K choices a token.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import TokenNoise, position_noise, token_noise
from turnout.moe.routers.scores import named, router_stats
from turnout.moe.stats import RouterStats


def fixed_routing(
    expert: Int[Tensor, "T K"], log_probability: Float[Tensor, "T E"], context: RoutingContext
) -> tuple[Assignment, RouterStats]:
    """Every weight is 1 / K and carries no gradient.

    There are no logits: the log-probabilities stand for them, whose log-sum-exp is 0, so the
    router z-loss is 0 up to rounding. A replayed record changes the experts alone.
    """
    choices = named(expert, context)
    weight = torch.full_like(choices.expert, 1 / expert.shape[1], dtype=torch.float32)
    chosen = log_probability.take_along_dim(choices.expert, dim=1)
    assignment = Assignment.token_choice(choices.expert, weight, chosen, choices.taken)
    return assignment, router_stats(log_probability, log_probability, assignment, context)


def certain(expert: Int[Tensor, "T K"], num_experts: int) -> Float[Tensor, "T E"]:
    """Log-probabilities of a decision without chance: 1 / K for the experts named, else 0.

    The logarithm of that zero is the least float32: its exponential is 0, and so is its product
    with 0, where minus infinity would give NaN in the entropy.
    """
    tokens, k = expert.shape
    least = torch.finfo(torch.float32).min
    table = torch.full((tokens, num_experts), least, device=expert.device)
    return table.scatter(1, expert, -math.log(k))


def lots(context: RoutingContext, layer: int, training: bool) -> TokenNoise:
    """What experts are drawn from: noise in training, layer and position in evaluation."""
    return token_noise(context, layer) if training else position_noise(context, layer)
