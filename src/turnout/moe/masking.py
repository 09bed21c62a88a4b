"""Expert output masking: outputs of experts that are left out in training.

Axes: T tokens, N assignments, E experts.
"""

from dataclasses import dataclass, replace

from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import Stream, token_noise


@dataclass(frozen=True)
class OutputMasking:
    """NLLB (2207.04672): in training each expert's output for a token is left out with probability
    ``rate``, one for all its entries; evaluation takes all of them times ``1 - rate``
    (modeling_nllb_moe.py, ``moe_token_dropout``). The draw has no state and is salted by the
    layer."""

    rate: float
    layer: int

    def masked(
        self, assignment: Assignment, context: RoutingContext, *, experts: int, training: bool
    ) -> Assignment:
        """The assignment with the combine weights that this leaves."""
        weight = assignment.weight
        if not training:
            return replace(assignment, weight=weight * (1.0 - self.rate))
        draw = token_noise(context, self.layer).uniform(Stream.OUTPUT_MASK, experts).flatten()
        drawn = draw.index_select(0, assignment.token * experts + assignment.expert)
        return replace(assignment, weight=weight * (drawn >= self.rate))
