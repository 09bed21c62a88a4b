"""Token choice by softmax scores: the router behind Switch, top-k, top-2, NTLB, top-p and routing
by task or sentence.

Axes: B batch, S sequence, D width, T tokens = B * S, E experts, K choices a token.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from turnout.moe.assignment import Assignment
from turnout.moe.context import RoutingContext
from turnout.moe.noise import token_noise
from turnout.moe.routers.base import Router, RouterShape
from turnout.moe.routers.expert_groups import BestGroups
from turnout.moe.routers.exploration import ExplorationPolicy
from turnout.moe.routers.logits import LinearLogits, LogitForm
from turnout.moe.routers.masked_product import adapted
from turnout.moe.routers.scores import choose, router_stats
from turnout.moe.routers.weights import Acceptance, WeightForm, combine_weights
from turnout.moe.stats import RouterStats
from turnout.nn.init import matrix_normal_
from turnout.nn.linear import MatrixAdapter


@final
class SoftmaxRouter(Router):
    """``p = softmax(W_r x)``; each token takes its best ``choices`` experts.

    Switch Transformers (2101.03961), equations 1 and 2, for any number of choices; the parts
    say what the logits are made from, how it explores, which groups of experts are open to a token,
    what the combine weights are, times ``scale``, and which choices are taken up. With ``bias`` the
    logits are ``W_r x + b``.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        choices: int,
        weights: WeightForm,
        exploration: ExplorationPolicy,
        acceptance: Acceptance,
        at_most: int | None = None,
        form: LogitForm | None = None,
        groups: BestGroups | None = None,
        scale: float = 1.0,
        bias: bool = False,
    ) -> None:
        form = form or LinearLogits()
        super().__init__(
            choices=choices,
            active=at_most,
            at_most=at_most,
            couples=form.couples,
            couples_in_evaluation=form.couples,
        )
        self.form = form
        self.layer = shape.layer
        self.weights = weights
        self.exploration = exploration
        self.acceptance = acceptance
        self.groups = groups or BestGroups(1, 1, counted=1)
        self.scale = scale
        self.init_scale = shape.init_scale
        self.fan_in = self.form.fan_in(shape)
        self.weight = nn.Parameter(torch.empty(self.form.weight_shape(shape)))
        self.bias = nn.Parameter(torch.empty(shape.num_experts)) if bias else None
        self.weight_lora: MatrixAdapter | None = None

    def init_weights(
        self, generator: torch.Generator | None = None, *, std: float | None = None
    ) -> None:
        matrix = self.weight.detach().view(-1, self.fan_in)
        matrix_normal_(matrix, generator, scale=self.init_scale, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "B S D"], context: RoutingContext
    ) -> tuple[Assignment, RouterStats]:
        noise = token_noise(context, self.layer) if self.training else None
        tokens = x.flatten(0, 1)
        if noise is not None:
            tokens = self.exploration.perturb_input(tokens, noise)
        logits = self.form.logits(tokens, self.weight, context)
        logits = adapted(logits, tokens, context.mask.flatten(), self.weight_lora)
        if self.bias is not None:
            logits = logits + self.bias.float()
        scores = logits if noise is None else self.exploration.selection_scores(logits, noise)
        choices = choose(self.groups.limited(scores), self.choices, context)

        log_probability = F.log_softmax(logits, dim=1)
        chosen = log_probability.take_along_dim(choices.expert, dim=1)
        probability = chosen.exp()
        choices = choices.accepted(self.acceptance.accept(probability, noise), context)
        weight = combine_weights(
            self.weights,
            probability,
            logits.take_along_dim(choices.expert, dim=1),
            choices.taken,
        )
        assignment = Assignment.token_choice(
            choices.expert, self.scale * weight, chosen, choices.taken
        )
        return assignment, router_stats(logits, log_probability, assignment, context)
