"""Choices of tokens, sorted by expert. Axes: T tokens, K choices, N = T * K, E experts."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """Entries of the flat [T, K] table in the order of their experts; ties by place.

    Entries of experts from E on, which the library gives to choices that another device serves,
    stand behind the last offset.

    Attributes:
        entry: the place of each in the table.
        token: the token of each.
        offsets: int32, the end of each expert's entries.
    """

    entry: Int[Tensor, " N"]
    token: Int[Tensor, " N"]
    offsets: Int[Tensor, " E"]

    @staticmethod
    def of(expert: Int[Tensor, "T K"], num_experts: int) -> "Order":
        flat = expert.flatten().clamp(max=num_experts)
        entry = torch.argsort(flat, stable=True)
        counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=flat.device)
        counts = counts.scatter_add_(0, flat, torch.ones_like(flat))
        choices = max(expert.shape[1], 1)
        return Order(entry, entry // choices, counts[:-1].cumsum(0).to(torch.int32))
