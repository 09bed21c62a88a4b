"""How far the routing of a model went from that of another, on the same text.

Axes: B batch, S sequence, K choices, E experts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.modes import evaluating


@dataclass(frozen=True)
class Drift:
    """One sparse layer, both models in evaluation mode.

    Attributes:
        layer: its name.
        tokens: real tokens that were compared.
        same: share of the choices of the one that the other makes too, for the same token.
        moved: share of the load that changed its expert: half the sum of the differences of the
            experts' shares (total variation), 0 to 1.
        entropy_before, entropy_after: of the load, in bits; log2 E where it is even.
    """

    layer: str
    tokens: int
    same: float
    moved: float
    entropy_before: float
    entropy_after: float


@torch.no_grad()
def routing_drift(before: Model, after: Model, batches: Sequence[Batch]) -> tuple[Drift, ...]:
    """Layer by layer, in order; empty for dense models.

    Raises:
        UserError: the models have other sparse layers, or other numbers of experts.
    """
    experts = {name: layer.experts.num_experts for name, layer in before.sparse_layers().items()}
    other = {name: layer.experts.num_experts for name, layer in after.sparse_layers().items()}
    if experts != other:
        raise UserError("the two models have different sparse layers: their routing cannot differ")
    sums = {name: Tally(count) for name, count in experts.items()}
    for batch in batches if experts else ():
        pair = [_decisions(model, batch) for model in (before, after)]
        for name, each in sums.items():
            mask = (batch.encoder if name.startswith("encoder") else batch.decoder).mask  # type: ignore[union-attr]
            each.add(pair[0][name], pair[1][name], mask)
    return tuple(each.drift(name) for name, each in sums.items())


def _decisions(model: Model, batch: Batch) -> dict[str, Int[Tensor, "B S K"]]:
    with evaluating(model):
        routing = model(batch, routing=True).routing
    assert routing is not None
    return {name: decision.expert for name, decision in routing.by_layer().items()}


@final
class Tally:
    """Counts of one layer, over batches."""

    def __init__(self, experts: int) -> None:
        self.tokens = self.choices = self.shared = 0
        self.loads = torch.zeros(2, experts, dtype=torch.int64)

    def add(
        self,
        one: Int[Tensor, "B S K"],
        other: Int[Tensor, "B S K"],
        mask: Bool[Tensor, "B S"],
    ) -> None:
        """What both decided for the real tokens of a batch; -1 serves nobody."""
        one, other = one[mask], other[mask]
        served = one >= 0
        met = (one.unsqueeze(2) == other.unsqueeze(1)).any(2) & served
        self.tokens += len(one)
        self.choices += int(served.sum())
        self.shared += int(met.sum())
        for row, chosen in enumerate((one, other)):
            self.loads[row] += torch.bincount(chosen[chosen >= 0], minlength=self.loads.shape[1])

    def drift(self, name: str) -> Drift:
        """Of all that was added."""
        shares = self.loads.double() / self.loads.sum(1, keepdim=True).clamp(min=1)
        return Drift(
            layer=name,
            tokens=self.tokens,
            same=self.shared / max(self.choices, 1),
            moved=float((shares[0] - shares[1]).abs().sum()) / 2,
            entropy_before=_bits(shares[0]),
            entropy_after=_bits(shares[1]),
        )


def _bits(share: Tensor) -> float:
    shares: list[float] = share.tolist()
    return -sum(p * math.log2(p) for p in shares if p > 0)
