"""Which groups of experts a token may choose from. Axes: T tokens, E experts, J expert groups."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.moe.routers.scores import best


@final
@dataclass(frozen=True)
class BestGroups:
    """The ``kept`` best of ``groups`` equal groups in order; ties go to the lower number.

    A group's score is the sum of its ``counted`` largest: one in DeepSeek-V2 (2405.04434, section
    2.2.2), two in DeepSeek-V3.
    """

    groups: int
    kept: int
    counted: int

    def limited(self, scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Scores of the experts in the groups that a token keeps; else -inf."""
        if self.kept == self.groups:
            return scores
        table = scores.view(len(scores), self.groups, scores.shape[1] // self.groups)
        counted = min(self.counted, table.shape[2])
        group_score = table.topk(counted, dim=2).values.sum(2)
        is_open = torch.zeros_like(group_score, dtype=torch.bool)
        is_open = is_open.scatter(1, best(group_score, self.kept), True)
        return torch.where(is_open.unsqueeze(2), table, -torch.inf).flatten(1)
