"""The sparse layer: route, grant, dispatch, compute, combine; everything it learns it returns.

Axes: B batch, S sequence, D width, O output width (that of the experts), T tokens = B * S,
N assignments, E experts, K choices.
"""

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from turnout.moe.assignment import Assignment
from turnout.moe.capacity import grant
from turnout.moe.context import RoutingContext
from turnout.moe.dispatch import Dispatcher, Granted
from turnout.moe.experts import ExpertStack
from turnout.moe.masking import OutputMasking
from turnout.moe.priority import Priority, TokenOrder
from turnout.moe.routers import Router
from turnout.moe.shared import SharedExperts
from turnout.moe.stats import LayerDecision, LayerStats, RouterStats, count_by_expert, group_sum


@dataclass(frozen=True)
class CapacityRule:
    """Slots an expert has in a group, constants of the configuration; None drops nothing.

    ``within_row`` says whether a routing group never spans rows of the batch. ``a_pass`` are slots
    of evaluation in each row of each pass, which padding takes too, whatever else drops nothing.
    """

    train: int | None = None
    evaluation: int | None = None
    within_row: bool = True
    weights_after_drops: bool = False
    a_pass: int | None = None

    def slots(self, training: bool, dropless: bool) -> int | None:
        """What holds for a pass, ``dropless`` as its context says."""
        if not training and self.a_pass is not None:
            return self.a_pass
        return None if dropless else self.train if training else self.evaluation

    @property
    def bounded(self) -> bool:
        """Whether a token can be dropped at all."""
        return any(slots is not None for slots in (self.train, self.evaluation, self.a_pass))


@final
class MoELayer(nn.Module):
    """``y = sum over kept experts of weight * expert(x)``, plus shared experts where there are.

    Switch Transformers (2101.03961), equation 2. Dropped tokens and padding get zero from the
    routed experts, so that a residual connection carries them.

    Attributes:
        name: such as ``decoder.3.moe``; names the layer's statistics.
        stack: ``encoder`` or ``decoder``.
    """

    def __init__(
        self,
        router: Router,
        experts: ExpertStack,
        dispatcher: Dispatcher[Any],
        *,
        priority: Priority | None = None,
        capacity: CapacityRule | None = None,
        shared: SharedExperts | None = None,
        masking: OutputMasking | None = None,
        name: str = "moe",
        stack: str = "decoder",
    ) -> None:
        super().__init__()
        self.name = name
        self.stack = stack
        self.router = router
        self.experts = experts
        self.shared = shared
        self.dispatcher = dispatcher
        self.priority = priority or TokenOrder()
        self.capacity = capacity or CapacityRule()
        self.masking = masking

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        """Router and experts by their own rules; ``std`` replaces the fan-in rule."""
        self.router.init_weights(generator, std=std)
        self.experts.init_weights(generator, std=std)
        if self.shared is not None:
            self.shared.init_weights(generator, std=std, scale=self.experts.init_scale)

    def with_dispatcher(self, dispatcher: Dispatcher[Any]) -> "MoELayer":
        """The same layer, same parameters, with another dispatcher; in training mode if this is."""
        other = MoELayer(
            self.router,
            self.experts,
            dispatcher,
            priority=self.priority,
            capacity=self.capacity,
            shared=self.shared,
            masking=self.masking,
            name=self.name,
            stack=self.stack,
        )
        return other.train(self.training)

    @property
    def causal(self) -> bool:
        """Whether no token's output ever depends on a later token of its row."""
        serves_in_time = not self.capacity.bounded or self.priority.causal(self.router.choices)
        coupled = "group" in (self.router.couples, self.router.couples_in_evaluation)
        return serves_in_time and not coupled

    @property
    def batch_invariant(self) -> bool:
        """Whether, in evaluation, no row's output depends on the other rows of its batch.

        Where padding takes slots it does: on how long they are.
        """
        if self.capacity.a_pass is not None:
            return False
        return self.capacity.within_row or (
            self.router.couples_in_evaluation == "none" and self.capacity.evaluation is None
        )

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Float[Tensor, "B S O"], LayerStats, LayerDecision]:
        """Applies the layer.

        Args:
            x: hidden states, float32 or bfloat16; experts compute in this dtype.
            context: mask, groups and keys of these tokens.

        Returns:
            The output (no residual in it), the layer's sums, and its decisions; these two empty
            unless ``context.observed``.
        """
        if self.capacity.a_pass is not None and not self.training:
            context = replace(context, mask=torch.ones_like(context.mask))
        if context.replay is not None:
            context = replace(context, replay=None, chosen=context.replay.get(self.name))
        assignment, router_stats = self.router(x, context)
        if context.chosen is not None:
            assignment = _as_served(assignment, context.chosen)
        granted = self._grant(assignment, context)
        dispatched = self.dispatcher.dispatch(x.flatten(0, 1), self._masked(granted, context))
        rows = self.experts(dispatched.rows, dispatched.offsets)
        y = self.dispatcher.combine(rows, dispatched.ticket)
        y = y.view(*x.shape[:2], y.shape[1])
        if self.shared is not None:
            y = y + self.shared(torch.where(context.mask.unsqueeze(-1), x, 0.0))
        if not context.observed:
            stats = LayerStats.unobserved(self.name, self.stack, router_stats)
            return y, stats, LayerDecision.unobserved(x.device)
        return (
            y,
            self._stats(router_stats, granted, context),
            _decision(granted, context, self.router.choices),
        )

    def _grant(self, assignment: Assignment, context: RoutingContext) -> Granted:
        capacity = self.capacity.slots(self.training, context.dropless)
        group = context.group.flatten()
        bounded = capacity is not None or self.router.at_most is not None
        priority = self.priority if self.training else self.priority.noiseless()
        slot, kept = torch.zeros_like(assignment.expert), assignment.live
        if bounded or self.dispatcher.needs_slots:
            slot, kept = grant(
                assignment,
                priority.order(assignment, context),
                group,
                num_groups=context.num_groups,
                num_experts=self.experts.num_experts,
                capacity=capacity,
                at_most=self.router.at_most,
            )
        if self.capacity.weights_after_drops:
            assignment = renormalise(assignment, kept)
        return Granted(
            assignment=assignment,
            slot=slot,
            kept=kept,
            group=group,
            num_groups=context.num_groups,
            groups_per_block=context.groups_per_block,
            num_experts=self.experts.num_experts,
            capacity=capacity,
        )

    def _masked(self, granted: Granted, context: RoutingContext) -> Granted:
        """With the weights that masking leaves: decisions and sums are those before it."""
        if self.masking is None:
            return granted
        assignment = self.masking.masked(
            granted.assignment, context, experts=granted.num_experts, training=self.training
        )
        return replace(granted, assignment=assignment)

    def _stats(self, router: RouterStats, granted: Granted, context: RoutingContext) -> LayerStats:
        assignment, shape = granted.assignment, (context.num_groups, granted.num_experts)
        entry_group = granted.group.index_select(0, assignment.token)
        served = torch.zeros(assignment.num_tokens, dtype=torch.int64, device=granted.kept.device)
        served = served.scatter_add_(0, assignment.token, granted.kept.long())
        unrouted = (served == 0) & context.mask.flatten()
        return LayerStats(
            name=self.name,
            stack=self.stack,
            choices=self.router.choices,
            active=self.router.active,
            router=router,
            kept=count_by_expert(assignment.expert, entry_group, granted.kept, shape),
            unrouted=group_sum(unrouted.long(), granted.group, context.num_groups),
            extra=router.z.new_zeros(context.num_groups),
        )


def renormalise(assignment: Assignment, kept: Bool[Tensor, " N"]) -> Assignment:
    """Divides each token's kept weights by their sum (newer lingvo, fairseq, DeepSpeed)."""
    weight = torch.where(kept, assignment.weight, 0.0)
    total = group_sum(weight, assignment.token, assignment.num_tokens)
    total = torch.where(total > 0, total, 1.0)
    return replace(assignment, weight=weight / total.index_select(0, assignment.token))


def _as_served(assignment: Assignment, chosen: LayerDecision) -> Assignment:
    """Without the choices that a record says were dropped."""
    served = (chosen.expert >= 0).flatten() & assignment.live
    weight = torch.where(served, assignment.weight, 0.0)
    return replace(assignment, live=served, weight=weight)


def _decision(granted: Granted, context: RoutingContext, choices: int) -> LayerDecision:
    """The decisions as a [B, S, K] table; token-choice assignments are one already."""
    assignment, table = granted.assignment, (*context.mask.shape, choices)
    expert = torch.where(granted.kept, assignment.expert, -1)
    weight = torch.where(granted.kept, assignment.weight, 0.0).detach()
    log_probability = assignment.log_probability
    if assignment.per_token is None:
        place = _place(granted, choices)
        size = assignment.num_tokens * choices + 1
        expert = expert.new_full((size,), -1).scatter(0, place, expert)[:-1].view(table)
        weight = weight.new_zeros(size).scatter(0, place, weight)[:-1]
        log_probability = weight.new_zeros(size).scatter(0, place, log_probability)[:-1]
        named, live = expert, expert >= 0
    else:
        real = context.mask.unsqueeze(2)
        named = torch.where(real, assignment.expert.view(table), -1)
        live = assignment.live.view(table)
    return LayerDecision(
        expert.view(table), named, live, weight.view(table), log_probability.view(table)
    )


def _place(granted: Granted, choices: int) -> Int[Tensor, " N"]:
    """Where each kept entry stands in a flat [T, K] table: by token, in the entries' order; the
    others behind its end."""
    token, kept = granted.assignment.token, granted.kept.long()
    order = torch.argsort(token, stable=True)
    sorted_kept = kept.index_select(0, order)
    before = sorted_kept.cumsum(0) - sorted_kept
    tokens = granted.assignment.num_tokens
    totals = torch.zeros(tokens, dtype=torch.int64, device=token.device)
    totals = totals.scatter_add_(0, token, kept)
    start = totals.cumsum(0) - totals
    rank = before - start.index_select(0, token.index_select(0, order))
    rank = torch.zeros_like(rank).scatter(0, order, rank)
    return torch.where(granted.kept, token * choices + rank, tokens * choices)
