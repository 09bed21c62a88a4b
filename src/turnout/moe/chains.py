"""Loads made even at the least loss: tokens move along cheapest chains of experts.

A minimum-cost flow over the experts, by successive shortest paths (Jewell 1958; potentials as of
Edmonds and Karp 1972). It ends after as many moves as tokens stand above an equal load.

Axes: G groups, M tokens of the largest group, E experts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def even_out(
    values: Float[Tensor, "G M E"],
    live: Bool[Tensor, "G M"],
    expert: Int[Tensor, "G M"],
    price: Float[Tensor, "G E"],
) -> Int[Tensor, "G M"]:
    """An assignment whose loads differ by at most one, from one with any loads.

    Args:
        values: what each expert is worth to each token, float64.
        expert: for each token an expert that at ``price`` is among its best, to some epsilon.
            The result is then within epsilon a token of the optimum.
    """
    state = Holdings.of(live, expert, price)
    surplus = (state.load(live) - state.slots).clamp(min=0).sum(1)
    for _ in range(int(surplus.max())):
        state = state.after_chain(values, live)
    return state.expert


@dataclass(frozen=True)
class Holdings:
    """Who holds what. Every expert has ``slots`` slots; those that no token will fill are filled
    by vacancies, at most one an expert, which are worth the same everywhere.

    Attributes:
        expert: the token's expert.
        vacant: experts with a vacancy.
        price: potentials: no token would gain much by a move at these prices.
        slots: an equal load, vacancies included.
    """

    expert: Int[Tensor, "G M"]
    vacant: Bool[Tensor, "G E"]
    price: Float[Tensor, "G E"]
    slots: Int[Tensor, "G 1"]

    @staticmethod
    def of(
        live: Bool[Tensor, "G M"], expert: Int[Tensor, "G M"], price: Float[Tensor, "G E"]
    ) -> "Holdings":
        """Vacancies go to the experts of the lowest prices."""
        experts = price.shape[1]
        size = live.sum(1, keepdim=True)
        slots = -(-size // experts)
        cheapest = torch.argsort(price, dim=1, stable=True)
        number = torch.arange(experts, device=price.device)
        vacant = torch.zeros_like(cheapest, dtype=torch.bool)
        vacant = vacant.scatter(1, cheapest, number < slots * experts - size)
        return Holdings(expert, vacant, price, slots)

    def load(self, live: Bool[Tensor, "G M"]) -> Int[Tensor, "G E"]:
        """Tokens and vacancies of each expert."""
        return self.vacant.long().scatter_add(1, self.expert, live.long())

    def after_chain(self, values: Float[Tensor, "G M E"], live: Bool[Tensor, "G M"]) -> "Holdings":
        """In every group with a surplus, one slot's worth goes down the cheapest chain."""
        arcs = Arcs.of(self, values, live)
        load = self.load(live)
        distance, before = _shortest(arcs.cost, load > self.slots)
        reach, end = torch.where(load < self.slots, distance, torch.inf).min(1, keepdim=True)
        active = (load > self.slots).any(1, keepdim=True)
        # The arcs of the chain cost nothing at the new prices, and no other becomes negative.
        price = torch.where(active, self.price - torch.minimum(distance, reach), self.price)

        number = torch.arange(values.shape[2], device=values.device)
        expert, vacant = self.expert, self.vacant
        for _ in range(values.shape[2] - 1):
            start = torch.where(active, before.gather(1, end), -1)
            active = start >= 0
            if not bool(active.any()):
                break
            start = torch.where(active, start, 0)
            by_vacancy = active & arcs.is_vacancy(start, end)
            mover = arcs.mover(self.expert, start, end)
            expert = torch.where(active & ~by_vacancy & mover, end, expert)
            vacant = torch.where(by_vacancy, (vacant & (number != start)) | (number == end), vacant)
            end = torch.where(active, start, end)
        return Holdings(expert, vacant, price, self.slots)


@dataclass(frozen=True)
class Arcs:
    """What it costs to take one slot's worth from an expert to another, at the prices.

    Attributes:
        loss: what each token loses by a move to each expert; infinite for padding.
        vacancy: what a move of the vacancy costs; infinite where there is none to move.
        cost: the lesser of the vacancy's and the cheapest token's.
    """

    loss: Float[Tensor, "G M E"]
    vacancy: Float[Tensor, "G E E"]
    cost: Float[Tensor, "G E E"]

    @staticmethod
    def of(holdings: Holdings, values: Float[Tensor, "G M E"], live: Bool[Tensor, "G M"]) -> "Arcs":
        """Costs below zero, which an epsilon of slack allows, count as zero: no cycle pays."""
        price, vacant = holdings.price, holdings.vacant
        profit = values - price.unsqueeze(1)
        index = holdings.expert.unsqueeze(2)
        loss = (profit.gather(2, index) - profit).clamp(min=0)
        loss = torch.where(live.unsqueeze(2), loss, torch.inf)
        saved = (price.unsqueeze(1) - price.unsqueeze(2)).clamp(min=0)
        movable = vacant.unsqueeze(2) & ~vacant.unsqueeze(1)
        vacancy = torch.where(movable, saved, torch.inf)
        cost = vacancy.scatter_reduce(1, index.expand_as(loss), loss, "amin")
        return Arcs(loss, vacancy, cost)

    def is_vacancy(self, start: Int[Tensor, "G 1"], end: Int[Tensor, "G 1"]) -> Bool[Tensor, "G 1"]:
        """Whether it is a vacancy that goes from ``start`` to ``end`` at the arc's cost."""
        arc = start * self.cost.shape[2] + end
        cost = self.cost.flatten(1).gather(1, arc)
        return self.vacancy.flatten(1).gather(1, arc) <= cost

    def mover(
        self, expert: Int[Tensor, "G M"], start: Int[Tensor, "G 1"], end: Int[Tensor, "G 1"]
    ) -> Bool[Tensor, "G M"]:
        """The token of ``start`` that loses least by going to ``end``, the lowest of several."""
        column = end.unsqueeze(1).expand(-1, self.loss.shape[1], -1)
        loss = self.loss.gather(2, column).squeeze(2)
        least = torch.where(expert == start, loss, torch.inf).argmin(1, keepdim=True)
        return torch.arange(expert.shape[1], device=expert.device) == least


def _shortest(
    cost: Float[Tensor, "G E E"], source: Bool[Tensor, "G E"]
) -> tuple[Float[Tensor, "G E"], Int[Tensor, "G E"]]:
    """Distance of every expert from the nearest source and the expert before it, -1 for sources;
    costs are not negative (Bellman 1958)."""
    distance = torch.where(source, 0.0, cost.new_full(source.shape, torch.inf))
    before = torch.full_like(source, -1, dtype=torch.int64)
    for _ in range(cost.shape[1] - 1):
        nearest, through = (distance.unsqueeze(2) + cost).min(1)
        nearer = nearest < distance
        if not bool(nearer.any()):
            break
        distance = torch.where(nearer, nearest, distance)
        before = torch.where(nearer, through, before)
    return distance, before
