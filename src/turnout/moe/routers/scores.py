"""What routers share: float32 logits, stable choices, and the sums every router reports.

Axes: T tokens, E experts, K choices, G routing groups.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.stats import RouterStats, count_by_expert, group_sum


def router_input(x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "T D"]:
    """A float32 copy of the hidden states; padding is zero, so that no NaN in it spreads."""
    return without_padding(x.flatten(0, 1), mask.flatten())


def without_padding(x: Float[Tensor, "T D"], mask: Bool[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """A float32 copy with zeros where ``mask`` is False."""
    return torch.where(mask.unsqueeze(1), x.float(), 0.0)


def linear_float32(x: Float[Tensor, "T D"], weight: Float[Tensor, "E D"]) -> Float[Tensor, "T E"]:
    """Router logits in float32, also under autocast (selective precision, Switch section 2.4)."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        return F.linear(x.float(), weight.float())


def best(scores: Float[Tensor, "T E"], k: int) -> Int[Tensor, "T K"]:
    """Indices of the ``k`` largest scores of each token; ties go to the lowest expert."""
    if k == 1:
        return scores.argmax(1, keepdim=True)
    return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]


@dataclass(frozen=True)
class Choices:
    """Experts that tokens name, and which of them they take up: none for padding."""

    expert: Int[Tensor, "T K"]
    taken: Bool[Tensor, "T K"]

    def accepted(self, accepted: Bool[Tensor, "T K"], context: RoutingContext) -> "Choices":
        """Only those accepted too; a record has said already what was declined."""
        if context.chosen is not None:
            return self
        return Choices(self.expert, self.taken & accepted)


def choose(scores: Float[Tensor, "T E"], k: int, context: RoutingContext) -> Choices:
    """The ``k`` best of each token, or what a record that is replayed says.

    Raises:
        UserError: the record has another number of choices a token.
    """
    return named(best(scores, k), context)


def named(expert: Int[Tensor, "T K"], context: RoutingContext) -> Choices:
    """``expert`` for each real token, or what a record that is replayed says.

    Raises:
        UserError: the record has another number of choices a token.
    """
    mask = context.mask.flatten().unsqueeze(1)
    tokens, k = expert.shape
    if context.chosen is None:
        return Choices(expert, mask.expand(-1, k))
    recorded, live = context.chosen.named.flatten(0, 1), context.chosen.live.flatten(0, 1)
    if recorded.shape != (tokens, k):
        raise UserError(
            f"replay: the record has {recorded.shape[1]} choices for each of "
            f"{recorded.shape[0]} tokens, this layer {k} for each of {tokens}: "
            "it is of another model or of other text"
        )
    return Choices(recorded.clamp(min=0), mask & live & (recorded >= 0))


def router_stats(
    logits: Float[Tensor, "T E"],
    log_probability: Float[Tensor, "T E"],
    assignment: Assignment,
    context: RoutingContext,
    load: Float[Tensor, "T E"] | None = None,
) -> RouterStats:
    """Sums over the real tokens of each group, of a router that is a softmax over logits."""
    if not context.observed:
        return RouterStats.unobserved(logits.device)
    probability = log_probability.exp()
    return token_sums(
        assignment,
        context,
        probability=probability,
        z=torch.logsumexp(logits, dim=1).square(),
        entropy=-(probability * log_probability).sum(1),
        load=load,
    )


def token_sums(
    assignment: Assignment,
    context: RoutingContext,
    *,
    probability: Float[Tensor, "T E"],
    z: Float[Tensor, " T"],
    entropy: Float[Tensor, " T"],
    load: Float[Tensor, "T E"] | None = None,
) -> RouterStats:
    """Sums over the real tokens of each group; padding adds nothing, not even a rounding."""
    if not context.observed:
        return RouterStats.unobserved(z.device)
    groups, experts = context.num_groups, probability.shape[1]
    group = context.group.flatten()
    mask = context.mask.flatten()
    entry_group = group.index_select(0, assignment.token)

    def summed(values: Tensor) -> Tensor:
        where = mask.view(-1, *[1] * (values.dim() - 1))
        return group_sum(torch.where(where, values, 0.0), group, groups)

    assigned = count_by_expert(assignment.expert, entry_group, assignment.live, (groups, experts))
    first = assignment.live & (assignment.choice == 0)
    return RouterStats(
        tokens=torch.zeros(groups, dtype=torch.int64, device=group.device).scatter_add_(
            0, group, mask.long()
        ),
        assigned=assigned,
        first_choice=count_by_expert(assignment.expert, entry_group, first, (groups, experts)),
        probability=summed(probability),
        weight=_weight_sums(assignment, entry_group, (groups, experts)),
        load=assigned.float() if load is None else summed(load),
        z=summed(z),
        entropy=summed(entropy),
        top_probability=summed(probability.amax(1)),
    )


def _weight_sums(
    assignment: Assignment, entry_group: Int[Tensor, " N"], shape: tuple[int, int]
) -> Float[Tensor, "G E"]:
    groups, experts = shape
    flat = group_sum(assignment.weight, entry_group * experts + assignment.expert, groups * experts)
    return flat.view(groups, experts)


def refuse_partial(context: RoutingContext, kind: str) -> None:
    """For decisions over whole routing groups.

    Raises:
        UserError: the groups continue outside these tokens.
    """
    if context.partial:
        raise UserError(
            f"moe.router.kind = {kind!r}: must be one that routes each token by itself where a "
            "routing group is read in parts, as under a cache; use groups of one row in an "
            "encoder and another moe.decoder_router"
        )
