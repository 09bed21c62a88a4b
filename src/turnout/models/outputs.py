"""What a model returns, whatever its configuration. Axes: B batch, S sequence, D width."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from turnout.models.cache import Cache
from turnout.models.head import Head
from turnout.moe.record import RoutingRecord
from turnout.moe.stats import LayerStats


@dataclass(frozen=True)
class ModelOutput:
    """Hidden states, the head that reads them, and a report of every sparse layer.

    Attributes:
        hidden: the decoder's final states, after the last norm, in the compute dtype.
        head: ``head.logits(hidden)`` and ``head.cross_entropy(hidden, targets, mask)``.
        layers: one LayerStats a sparse layer, in order; empty for dense models.
        cache: the updated KV cache when one was given.
        routing: the decisions of every sparse layer when asked for with ``routing=True``.
    """

    hidden: Float[Tensor, "B S D"]
    head: Head
    layers: tuple[LayerStats, ...]
    cache: Cache | None = None
    routing: RoutingRecord | None = None
