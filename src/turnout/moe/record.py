"""The routing of a forward pass as data: which expert served which token, layer by layer."""

from dataclasses import dataclass

from turnout.moe.stats import LayerDecision
from turnout.pytree import pytree


@pytree(static=("names",))
@dataclass(frozen=True)
class RoutingRecord:
    """Decisions of the sparse layers, in order; ``names`` are those of their LayerStats."""

    names: tuple[str, ...]
    layers: tuple[LayerDecision, ...]
