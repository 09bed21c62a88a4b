"""The tokens of each routing group as a row of one padded table.

For the inside of custom operators: the table is as wide as the largest group, so that its shape
depends on data. Axes: T tokens, G groups, M tokens of the largest group, E experts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class GroupTable:
    """Where the live tokens of each group stand, in the order of their indices.

    Attributes:
        token: flat index of each token; meaningless where not live.
        live: False behind the last token of a group.
        size: live tokens of each group.
        num_tokens: T.
    """

    token: Int[Tensor, "G M"]
    live: Bool[Tensor, "G M"]
    size: Int[Tensor, " G"]
    num_tokens: int

    @staticmethod
    def of(group: Int[Tensor, " T"], mask: Bool[Tensor, " T"], num_groups: int) -> "GroupTable":
        """The table of the tokens that ``mask`` holds."""
        key = torch.where(mask, group, num_groups)
        order = torch.argsort(key, stable=True)
        counts = torch.zeros(num_groups + 1, dtype=torch.int64, device=key.device)
        size = counts.scatter_add_(0, key, torch.ones_like(key))[:-1]
        width = int(size.max()) if num_groups else 0
        column = torch.arange(width, device=key.device)
        live = column < size.unsqueeze(1)
        place = (size.cumsum(0) - size).unsqueeze(1) + column
        token = order.index_select(0, torch.where(live, place, 0).flatten()).view_as(place)
        return GroupTable(token, live, size, mask.shape[0])

    def rows(self, values: Float[Tensor, "T E"]) -> Float[Tensor, "G M E"]:
        """The tokens' values in float64; 0 where there is no token. NaN is 0, infinities finite."""
        finite = torch.nan_to_num(values.float()).double()
        picked = finite.index_select(0, self.token.flatten())
        rows = picked.view(*self.token.shape, values.shape[1])
        return torch.where(self.live.unsqueeze(2), rows, 0.0)

    def flat(self, table: Shaped[Tensor, "G M *A"]) -> Shaped[Tensor, "T *A"]:
        """A table's values back at their tokens; 0 for tokens that are not in it."""
        home = torch.where(self.live, self.token, self.num_tokens).flatten()
        out = table.new_zeros(self.num_tokens + 1, *table.shape[2:])
        return out.index_copy(0, home, table.flatten(0, 1))[:-1]
