"""Balanced assignment: equal loads at the highest total score, by an auction.

Tokens bid for experts, each of which has as many slots as it may take tokens (Bertsekas and
Castanon 1989, the auction for persons and similar objects; Lewis et al. 2021, 2103.16716, take an
auction for BASE layers). What the bidding leaves open after a bounded number of rounds is moved
along cheapest chains (turnout.moe.chains), which makes the loads exact whatever happened before.

Axes: T tokens, G groups, M tokens of the largest group, E experts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.moe.chains import even_out
from turnout.moe.context import RoutingContext
from turnout.moe.group_table import GroupTable

# Smallest increments of a bid, phase after phase, in units of the mean spread of a token's scores
# (its best above their mean). The total falls short of the optimum by at most the last one a
# token: 0.2% of what choosing experts can bring at all.
INCREMENTS = (1.0, 0.1, 0.01, 0.002)
# Rounds of a phase: nearly all tokens find an expert in few, and the last ones outbid each other
# for hundreds.
ROUNDS = 10


def balanced_assignment(scores: Float[Tensor, "T E"], context: RoutingContext) -> Int[Tensor, " T"]:
    """The expert of each live token, so that the loads of a group differ by at most one.

    Among such assignments the sum of scores is at the optimum, to a part in hundreds. The result
    of a group depends on its own tokens alone. Computed in float64, without gradient; 0 for
    padding.
    """
    expert: Tensor = torch.ops.turnout.balanced_assignment(
        scores.detach(), context.group.flatten(), context.mask.flatten(), context.num_groups
    )
    return expert


@torch.library.custom_op(
    "turnout::balanced_assignment",
    mutates_args=(),
    schema="(Tensor scores, Tensor group, Tensor mask, int num_groups) -> Tensor",
)
def _assignment_op(scores, group, mask, num_groups):  # type: ignore[no-untyped-def]
    table = GroupTable.of(group, mask, num_groups)
    if scores.shape[1] == 1 or table.live.numel() == 0:
        return torch.zeros_like(group)
    return table.flat(assign(table.rows(scores), table.live))


@_assignment_op.register_fake
def _(scores, group, mask, num_groups):  # type: ignore[no-untyped-def]
    return torch.empty_like(group)


def assign(scores: Float[Tensor, "G M E"], live: Bool[Tensor, "G M"]) -> Int[Tensor, "G M"]:
    """Balanced assignments of several groups at once; for at least two experts."""
    # Only differences between a token's scores matter; its best becomes 0.
    values = torch.where(live.unsqueeze(2), scores - scores.amax(2, keepdim=True), 0.0)
    market = Market.of(values, live)
    bids = Bids.none(market)
    for increment in INCREMENTS:
        bids = bids.reopened(market, increment)
        for _ in range(ROUNDS):
            if not bool((live & (bids.expert < 0)).any()):
                break
            bids = bids.after_round(market, increment)
    best = (values - bids.price.unsqueeze(1)).argmax(2)
    expert = torch.where(bids.expert < 0, best, bids.expert)
    return even_out(values, live, expert, bids.price)


@dataclass(frozen=True)
class Market:
    """What is bid for: float64 values, at most 0, and the slots an expert has in a group."""

    values: Float[Tensor, "G M E"]
    live: Bool[Tensor, "G M"]
    slots: Int[Tensor, "G 1"]
    spread: Float[Tensor, "G 1"]

    @staticmethod
    def of(values: Float[Tensor, "G M E"], live: Bool[Tensor, "G M"]) -> "Market":
        size = live.sum(1, keepdim=True)
        spread = -values.mean(2).sum(1, keepdim=True) / size.clamp(min=1)
        return Market(
            values=values,
            live=live,
            slots=-(-size // values.shape[2]),
            spread=torch.where(spread > 0, spread, 1.0),
        )

    def profit(self, price: Float[Tensor, "G E"]) -> Float[Tensor, "G M E"]:
        """What each expert is worth to each token at these prices."""
        return self.values - price.unsqueeze(1)


@dataclass(frozen=True)
class Bids:
    """A state of the auction.

    A token's expert is, at the prices, within the increment of the best one for it.

    Attributes:
        expert: expert that holds a slot for the token, -1 for none.
        bid: what the token gave for the slot.
        price: what the cheapest slot of each expert costs.
        opening: what a free slot costs.
    """

    expert: Int[Tensor, "G M"]
    bid: Float[Tensor, "G M"]
    price: Float[Tensor, "G E"]
    opening: Float[Tensor, "G E"]

    @staticmethod
    def none(market: Market) -> "Bids":
        """Nobody has a slot, and all of them are free of charge."""
        groups, tokens, experts = market.values.shape
        nothing = market.values.new_zeros(groups, experts)
        return Bids(
            expert=torch.full_like(market.live, -1, dtype=torch.int64),
            bid=market.values.new_zeros(groups, tokens),
            price=nothing,
            opening=nothing,
        )

    def reopened(self, market: Market, increment: float) -> "Bids":
        """The start of a phase: who would be better off elsewhere by more than ``increment``
        loses the slot; the others hold theirs at the present price."""
        profit = market.profit(self.price)
        held = self.expert.clamp(min=0)
        own = profit.gather(2, held.unsqueeze(2)).squeeze(2)
        content = own >= profit.amax(2) - increment * market.spread
        expert = torch.where(content, self.expert, -1)
        return Bids(expert, self.price.gather(1, held), self.price, self.price)

    def after_round(self, market: Market, increment: float) -> "Bids":
        """All tokens without a slot bid at once; every expert serves the highest bids.

        A token bids for its best expert so much that this expert becomes worse for it than the
        second best, by ``increment``.
        """
        experts = market.values.shape[2]
        free = market.live & (self.expert < 0)
        (best, second), wanted = _best_two(market.profit(self.price))
        offer = self.price.gather(1, wanted) + best - second + increment * market.spread
        expert = torch.where(free, wanted, self.expert)
        bid = torch.where(free, offer, self.bid)

        # Tokens by expert, the highest bids first, ties to the lower token; padding last.
        cell = torch.where(market.live, expert, experts)
        by_bid = torch.argsort(bid, dim=1, descending=True, stable=True)
        by_cell = torch.argsort(cell.gather(1, by_bid), dim=1, stable=True)
        order = by_bid.gather(1, by_cell)
        cells = cell.gather(1, order)
        start = torch.searchsorted(cells, cells)
        rank = torch.arange(cells.shape[1], device=cells.device) - start
        served = (rank < market.slots) & (cells < experts)
        last = torch.where(served & (rank == market.slots - 1), bid.gather(1, order), torch.inf)
        full = bid.new_full((cells.shape[0], experts + 1), torch.inf)
        full = full.scatter_reduce(1, cells, last, "amin")[:, :experts]
        kept = torch.zeros_like(market.live).scatter(1, order, served)
        return Bids(
            expert=torch.where(kept, expert, -1),
            bid=bid,
            price=torch.where(full < torch.inf, full, self.opening),
            opening=self.opening,
        )


def _best_two(
    profit: Float[Tensor, "G M E"],
) -> tuple[tuple[Float[Tensor, "G M"], Float[Tensor, "G M"]], Int[Tensor, "G M"]]:
    """The largest and second largest of each token, and the lowest index of the largest."""
    index = profit.argmax(2, keepdim=True)
    best = profit.gather(2, index).squeeze(2)
    second = profit.scatter(2, index, -torch.inf).amax(2)
    return (best, second), index.squeeze(2)
