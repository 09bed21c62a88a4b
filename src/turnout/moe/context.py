"""What a router may know beside the hidden states: one frozen value, built once a forward.

Axes: B batch, S sequence, G routing groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.moe.hashing import mix
from turnout.moe.stats import LayerDecision
from turnout.pytree import pytree


@pytree(static=("num_groups", "groups_per_block", "partial", "dropless", "observed"))
@dataclass(frozen=True)
class RoutingContext:
    """Everything about the tokens of one stack that routing may depend on.

    Attributes:
        mask: True for real tokens. Padding takes no slot, no count and no part in a loss.
        group: routing group of each token, 0 .. num_groups - 1.
        position: index of each token among the real tokens of its row; noise is keyed by it, so
            that padding on either side moves nothing.
        keys: one random key a row, a function of (seed, step, global row) alone.
        num_groups: number of routing groups, G, some of which may be empty.
        groups_per_block: routing groups that share one contiguous block of T * this / G tokens;
            1 for groups of whole rows, the bound on segments a row for documents.
        progress: share of the run that is done, in [0, 1], for routers that anneal; a tensor, so
            that a compiled layer is not compiled again at every step.
        token_ids: vocabulary ids, for routers that read them.
        previous_ids: the id before each token in its document, -1 before the first.
        labels: one integer a row (domain, language or task), for routers that read it.
        replay: decisions to take over, by the name of a sparse layer; from a record.
        chosen: the same for the layer at hand, which sets it.
        partial: the groups continue outside these tokens, as under a KV cache: no router can
            decide over a whole group.
        dropless: no capacity applies, as in generation, and always where groups are partial.
        observed: whether anybody reads the statistics and decisions; else they come empty.
    """

    mask: Bool[Tensor, "B S"]
    group: Int[Tensor, "B S"]
    position: Int[Tensor, "B S"]
    keys: Int[Tensor, " B"]
    num_groups: int
    progress: Float[Tensor, ""]
    groups_per_block: int = 1
    token_ids: Int[Tensor, "B S"] | None = None
    previous_ids: Int[Tensor, "B S"] | None = None
    labels: Int[Tensor, " B"] | None = None
    replay: Mapping[str, LayerDecision] | None = None
    chosen: LayerDecision | None = None
    partial: bool = False
    dropless: bool = False
    observed: bool = True

    @staticmethod
    def of(mask: Bool[Tensor, "B S"], step: int = 0) -> "RoutingContext":
        """The trivial context: every row is a group, keys are a hash of (step, row number).

        Count ``step`` up where the router draws noise, or it draws the same each time.
        """
        rows = torch.arange(mask.shape[0], device=mask.device)
        return RoutingContext.build(mask, keys=mix(rows, step))

    @staticmethod
    def build(
        mask: Bool[Tensor, "B S"],
        *,
        keys: Int[Tensor, " B"] | None = None,
        rows: int = 1,
        token_ids: Int[Tensor, "B S"] | None = None,
        previous_ids: Int[Tensor, "B S"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        progress: float = 0.0,
    ) -> "RoutingContext":
        """Groups of ``rows`` whole rows.

        Raises:
            UserError: ``rows`` does not divide the batch, so that a group would be cut.
        """
        batch, length = mask.shape
        if batch % rows:
            valid = ", ".join(str(n) for n in range(rows, 4 * rows + 1, rows))
            raise UserError(
                f"a batch of {batch} rows cuts a routing group of {rows} rows: "
                f"use a micro-batch of {valid}, .. rows"
            )
        row = torch.arange(batch, device=mask.device)
        return RoutingContext(
            mask=mask,
            group=(row // rows).unsqueeze(1).expand(batch, length),
            position=_positions(mask),
            keys=row if keys is None else keys,
            num_groups=batch // rows,
            progress=torch.tensor(progress, device=mask.device),
            token_ids=token_ids,
            previous_ids=previous_ids,
            labels=labels,
        )

    @staticmethod
    def documents(
        mask: Bool[Tensor, "B S"],
        segment: Int[Tensor, "B S"],
        max_segments: int,
        *,
        keys: Int[Tensor, " B"] | None = None,
        token_ids: Int[Tensor, "B S"] | None = None,
        previous_ids: Int[Tensor, "B S"] | None = None,
        labels: Int[Tensor, " B"] | None = None,
        progress: float = 0.0,
    ) -> "RoutingContext":
        """A group for every segment; segments of a row count from 1, padding is segment 0.

        Segments beyond ``max_segments`` share the last group of their row.
        """
        batch = mask.shape[0]
        row = torch.arange(batch, device=mask.device)
        return RoutingContext(
            mask=mask,
            group=row.unsqueeze(1) * max_segments + (segment - 1).clamp(0, max_segments - 1),
            position=_positions(mask),
            keys=row if keys is None else keys,
            num_groups=batch * max_segments,
            groups_per_block=max_segments,
            progress=torch.tensor(progress, device=mask.device),
            token_ids=token_ids,
            previous_ids=previous_ids,
            labels=labels,
        )


def _positions(mask: Bool[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    return (mask.cumsum(1) - 1).clamp(min=0)
