"""What a router and a layer report: additive sums, a row a routing group, O(G * E).

They add over groups, micro-batches and ranks; nothing here is an average. Axes: G routing
groups, E experts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from turnout.pytree import pytree


@pytree()
@dataclass(frozen=True)
class RouterStats:
    """Counts are int64 and carry no gradient; the float32 sums do.

    Attributes:
        tokens: real tokens.
        assigned: live assignments of each expert, all choices, before capacity.
        first_choice: the same for first choices alone.
        probability: sum over tokens of each expert's probability.
        weight: sum of each expert's combine weights (Shazeer's importance).
        load: Shazeer's smooth load; zero for routers without noise.
        z: sum of squared log-sum-exp of the logits (ST-MoE eq. 5).
        entropy: sum of the entropies of the probabilities, in nats.
        top_probability: sum of each token's largest probability.
    """

    tokens: Int[Tensor, " G"]
    assigned: Int[Tensor, "G E"]
    first_choice: Int[Tensor, "G E"]
    probability: Float[Tensor, "G E"]
    weight: Float[Tensor, "G E"]
    load: Float[Tensor, "G E"]
    z: Float[Tensor, " G"]
    entropy: Float[Tensor, " G"]
    top_probability: Float[Tensor, " G"]

    @staticmethod
    def unobserved(device: torch.device) -> "RouterStats":
        """Sums over no groups and no experts, where nobody reads any."""
        table = torch.empty((0, 0), device=device)
        row, counts = table.flatten(), table.long()
        return RouterStats(counts.flatten(), counts, counts, table, table, table, row, row, row)


@pytree(static=("name", "stack", "choices", "active"))
@dataclass(frozen=True)
class LayerStats:
    """A router's report and what the layer made of it.

    Attributes:
        name: the layer's, such as ``decoder.3.moe``.
        stack: ``encoder`` or ``decoder``: names the totals that divide the sums.
        choices: candidates a token names.
        active: experts that compute a token when nothing is dropped.
        router: the router's own sums.
        kept: assignments of each expert that found a slot.
        unrouted: real tokens without a kept assignment.
        extra: a sum for layers with a term of their own; zero otherwise.
    """

    name: str
    stack: str
    choices: int
    active: int
    router: RouterStats
    kept: Int[Tensor, "G E"]
    unrouted: Int[Tensor, " G"]
    extra: Float[Tensor, " G"]

    @staticmethod
    def unobserved(name: str, stack: str, router: RouterStats) -> "LayerStats":
        """Sums over no groups and no experts, where nobody reads any."""
        return LayerStats(name, stack, 0, 0, router, router.assigned, router.tokens, router.z)


@pytree()
@dataclass(frozen=True)
class LayerDecision:
    """One layer's routing, token-major.

    Attributes:
        expert: the expert that serves each choice; -1 where none does.
        named: the expert that was named, also where the choice was declined or dropped; -1 where
            none was, and for padding.
        live: whether the choice was taken up, and so asked for a slot.
        weight: its combine weight, without gradient; 0 where no expert serves.
        log_probability: logarithm of its probability under the router, float32, with gradient:
            what a policy gradient is taken of.
    """

    expert: Int[Tensor, "B S K"]
    named: Int[Tensor, "B S K"]
    live: Bool[Tensor, "B S K"]
    weight: Float[Tensor, "B S K"]
    log_probability: Float[Tensor, "B S K"]

    @staticmethod
    def unobserved(device: torch.device) -> "LayerDecision":
        """Decisions of no tokens, where nobody reads any."""
        weight = torch.empty((0, 0, 0), device=device)
        expert = weight.long()
        return LayerDecision(expert, expert, weight.bool(), weight, weight)

    @staticmethod
    def of(expert: Int[Tensor, "B S K"]) -> "LayerDecision":
        """From the serving experts alone, -1 for none, as other engines record them: weights and
        probabilities are NaN, and no choice is known that was dropped."""
        expert = expert.long()
        unknown = torch.full(expert.shape, torch.nan, device=expert.device)
        return LayerDecision(expert, expert, expert >= 0, unknown, unknown)


def group_sum(
    values: Shaped[Tensor, "T *A"], group: Int[Tensor, " T"], groups: int
) -> Shaped[Tensor, "G *A"]:
    """Sums rows of ``values`` by group, deterministically: [T, ..] -> [G, ..]."""
    out = values.new_zeros((groups, *values.shape[1:]))
    return out.index_add(0, group, values)


def count_by_expert(
    expert: Int[Tensor, " N"],
    group: Int[Tensor, " N"],
    live: Tensor,
    shape: tuple[int, int],
) -> Int[Tensor, "G E"]:
    """Counts live entries by (group, expert); works under fake tensors."""
    groups, experts = shape
    flat = torch.zeros(groups * experts, dtype=torch.int64, device=expert.device)
    return flat.scatter_add_(0, group * experts + expert, live.long()).view(groups, experts)
