"""What the experts of a model do on some rows: loads, saliencies, outputs, and which are alike.

Axes: B rows, S tokens, K choices, T tokens, E experts, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.models.base import Model
from turnout.moe.layer import MoELayer
from turnout.surgery.rows import Rows

MOST_TOKENS = 4096  # of a batch, on which all experts' outputs are compared
Linkage = Literal["outputs", "weights"]


@dataclass(frozen=True)
class Observed:
    """One layer, over all rows, in evaluation.

    Attributes:
        load: tokens that each expert served.
        saliency: mean over those of combine weight times norm of the expert's output (REAP, Lasby
            et al., 2510.13999); 0 where it served none.
        output: mean output of each expert over all tokens, served or not, as HC-SMoE compares
            them (Chen et al., 2410.08589).
    """

    load: tuple[float, ...]
    saliency: tuple[float, ...]
    output: Float[Tensor, "E D"]


@torch.no_grad()
def observe(model: Model, rows: Rows) -> dict[str, Observed]:
    """Every sparse layer by name, in evaluation mode, which must be set, and dropless unless the
    model's configuration says otherwise."""
    layers = model.sparse_layers()
    sums = {name: _Sums(layer) for name, layer in layers.items()}
    with _watched(layers, sums):
        for batch in rows.batches:
            model(batch, routing=True)
    return {name: each.observed() for name, each in sums.items()}


class _Sums:
    """Running sums of one layer."""

    def __init__(self, layer: MoELayer) -> None:
        count = layer.experts.num_experts
        self.load = torch.zeros(count, dtype=torch.float64)
        self.weighted = torch.zeros(count, dtype=torch.float64)
        self.output: Tensor | None = None
        self.tokens = 0

    def add(self, layer: MoELayer, x: Tensor, mask: Tensor, decision: Any) -> None:
        """The decisions of a pass, and the experts' outputs on its tokens."""
        tokens = x.flatten(0, 1)
        expert, weight = decision.expert.flatten(0, 1), decision.weight.flatten(0, 1).double()
        some = tokens[mask.flatten()][:MOST_TOKENS]
        for number in range(len(self.load)):
            serves = (expert == number) & mask.flatten()[:, None]
            token, choice = serves.nonzero(as_tuple=True)
            outputs = _alone(layer, tokens[token], number)
            self.load[number] += len(token)
            norms = outputs.double().norm(dim=1)
            self.weighted[number] += (weight[token, choice] * norms).sum()
            self._add_output(number, _alone(layer, some, number).double().sum(0))
        self.tokens += len(some)

    def _add_output(self, number: int, total: Tensor) -> None:
        if self.output is None:
            self.output = total.new_zeros(len(self.load), len(total))
        self.output[number] += total

    def observed(self) -> Observed:
        assert self.output is not None
        return Observed(
            load=tuple(self.load.tolist()),
            saliency=tuple((self.weighted / self.load.clamp(min=1)).tolist()),
            output=self.output / max(self.tokens, 1),
        )


def _alone(layer: MoELayer, rows: Float[Tensor, "T D"], expert: int) -> Float[Tensor, "T D"]:
    """One expert's outputs."""
    ends = torch.zeros(layer.experts.num_experts, dtype=torch.long, device=rows.device)
    ends[expert:] = len(rows)
    found: Tensor = layer.experts(rows, ends)
    return found


@contextmanager
def _watched(layers: Mapping[str, MoELayer], sums: Mapping[str, _Sums]) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            x, context = inputs
            sums[name].add(layers[name], x, context.mask, output[2])

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def flattened(layer: MoELayer) -> Float[Tensor, "E P"]:
    """All weights of each expert in a row."""
    return torch.cat([weight.detach().flatten(1) for weight in layer.experts.parameters()], dim=1)


def alike(vectors: Float[Tensor, "E P"], groups: int) -> list[list[int]]:
    """So many groups of experts, by agglomeration: the two groups whose members are nearest on
    average, by cosine distance, become one until there are so many left (average linkage). Of equal
    distances the first. Groups and members are in rising order."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    distance = (1.0 - unit @ unit.T).tolist()
    found = [[expert] for expert in range(len(vectors))]
    while len(found) > groups:
        pairs = [(i, j) for i in range(len(found)) for j in range(i + 1, len(found))]
        i, j = min(pairs, key=lambda pair: _apart(distance, found[pair[0]], found[pair[1]]))
        found[i] = sorted(found[i] + found.pop(j))
    return sorted(found)


def _apart(distance: Sequence[Sequence[float]], one: Sequence[int], other: Sequence[int]) -> float:
    return sum(distance[a][b] for a in one for b in other) / (len(one) * len(other))
