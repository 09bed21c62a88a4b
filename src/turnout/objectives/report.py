"""What an objective says of one micro-batch."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from turnout.moe.stats import LayerStats
from turnout.pytree import pytree


@pytree()
@dataclass(frozen=True)
class Terms:
    """Loss terms, unweighted, float32 scalars. A micro-batch holds its share: they add.

    Attributes:
        language: cross-entropy, nats a target.
        balance: load balancing loss, summed or averaged over layers; 1 a layer when balanced
            (for the variants whose value at uniform routing is 1).
        router_z: router z-loss (ST-MoE equation 5), likewise over layers.
        importance: Shazeer's CV^2 of the combine weights, likewise.
        load: Shazeer's CV^2 of the load, likewise.
        entropy: of the router's probabilities, nats a token, likewise.
        router_own: the term of a router that has one: the policy gradient's, whose value says
            nothing, or the consistency of two passes, nats a target. Its coefficient is the
            router's.
        head_z: squared log-sum-exp of the output logits, a target.
        soft: divergence from a teacher, nats a target; 0 without one.
    """

    language: Float[Tensor, ""]
    balance: Float[Tensor, ""]
    router_z: Float[Tensor, ""]
    importance: Float[Tensor, ""]
    load: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    router_own: Float[Tensor, ""]
    head_z: Float[Tensor, ""]
    soft: Float[Tensor, ""]


@dataclass(frozen=True)
class LossReport:
    """One micro-batch's share of a step.

    Attributes:
        total: what to backpropagate; already divided by the step's totals, so that gradients of
            micro-batches and ranks are summed, never averaged.
        terms: its parts, unweighted, without gradient.
        layers: the sparse layers' statistics, without gradient.
    """

    total: Float[Tensor, ""]
    terms: Terms
    layers: tuple[LayerStats, ...]
