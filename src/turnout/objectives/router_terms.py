"""Terms that a router brings along, beside the losses that every router may have.

They are the objective's, since they need what the whole model said: its reward for a sampled
expert, or the agreement of two passes. Axes: B batch, S sequence, G routing groups.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.errors import ConfigError
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import ReinforceRouter, RouterConfig, ThorRouter
from turnout.data.batch import Batch
from turnout.models.base import Model
from turnout.models.contexts import Contexts
from turnout.models.head import HeadLoss
from turnout.models.outputs import ModelOutput
from turnout.moe.hashing import mix
from turnout.moe.stats import group_sum

SECOND = 2  # what a row's key is mixed with for the second pass


@dataclass(frozen=True)
class Own:
    """A router's own term, and the loss of the language.

    Attributes:
        value: with gradient, to be divided by the step's targets.
        loss: the mean over all passes of a micro-batch.
    """

    value: Float[Tensor, ""]
    loss: HeadLoss


Language = Callable[[ModelOutput], HeadLoss]


class RouterTerm(ABC):
    """What a kind of router adds to the loss of a micro-batch.

    Attributes:
        coefficient: what multiplies the term; 0 where there is none.
        needs_routing: whether the decisions of the layers must be asked for.
    """

    coefficient: float
    needs_routing: bool

    @abstractmethod
    def __call__(self, model: Model, batch: Batch, output: ModelOutput, language: Language) -> Own:
        """The term, from a pass's output.

        Args:
            language: the loss of a pass, whose gradient it makes: once for each.
        """


@final
class NoTerm(RouterTerm):
    """Most routers learn through their combine weights."""

    coefficient = 0.0
    needs_routing = False

    def __call__(self, model: Model, batch: Batch, output: ModelOutput, language: Language) -> Own:
        loss = language(output)
        return Own(loss.nats.new_zeros(()), loss)


@final
class PolicyGradient(RouterTerm):
    """REINFORCE (Williams 1992) with a token's log-likelihood as the reward of its experts.

    ``- sum_t (r_t - b_t) sum over layers of log p(e_t)``; the reward r has no gradient. The
    baseline b is the mean reward of the *other* tokens of the routing group. It depends on the
    token's own action only through what later tokens read of it, and as groups are never cut, on
    no cut of the batch. A token alone in its group has none to learn from.
    """

    needs_routing = True

    def __init__(self, coefficient: float, moe: MoEConfig) -> None:
        self.coefficient = coefficient
        self.contexts = Contexts.of(moe)

    def __call__(self, model: Model, batch: Batch, output: ModelOutput, language: Language) -> Own:
        assert output.routing is not None
        context = self.contexts.context(batch.decoder, batch)
        reward = -output.head.nats(output.hidden, batch.targets)
        found = advantage(reward, batch.target_mask, context.group, context.num_groups)
        policy = [
            torch.where(batch.target_mask, found * decision.log_probability.sum(2), 0.0).sum()
            for stats, decision in zip(output.layers, output.routing.layers, strict=True)
            if stats.stack == "decoder"
        ]
        return Own(-torch.stack(policy).sum(), language(output))


@final
class Consistency(RouterTerm):
    """THOR (2110.04260): two passes with other experts should predict the same.

    The term is ``1/2 [KL(p1 || p2) + KL(p2 || p1)]`` summed over targets; the language loss is the
    mean of both passes'. The second pass has other keys, and other dropout. In evaluation there is
    one pass, which is always the same.
    """

    needs_routing = False

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient

    def __call__(self, model: Model, batch: Batch, output: ModelOutput, language: Language) -> Own:
        loss = language(output)
        if not model.training:
            return Own(loss.nats.new_zeros(()), loss)
        again = model(replace(batch, keys=mix(batch.keys, SECOND)))
        apart = output.head.divergence(output.hidden, again.hidden, batch.target_mask)
        return Own(apart, loss.mean(language(again)))


def advantage(
    reward: Float[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    group: Int[Tensor, "B S"],
    num_groups: int,
) -> Float[Tensor, "B S"]:
    """A token's reward over the mean of the others of its routing group; 0 for one alone."""
    of_token, flat = group.flatten(), mask.flatten()
    counted = torch.where(flat, reward.flatten(), 0.0)
    total = group_sum(counted, of_token, num_groups).index_select(0, of_token)
    number = group_sum(flat.float(), of_token, num_groups).index_select(0, of_token)
    others = (total - counted) / (number - 1).clamp(min=1)
    return torch.where(flat & (number > 1), counted - others, 0.0).view_as(reward)


def build_router_term(model: ModelConfig) -> RouterTerm:
    """The term of the model's routers: that of one stack, where two have different ones.

    Raises:
        ConfigError: two stacks have routers with terms of their own, and not the same.
    """
    sparse = {stack.moe.router: stack.moe for stack in model.stacks() if stack.moe is not None}
    terms = {router: router_term(router, moe) for router, moe in sparse.items()}
    own = {router: term for router, term in terms.items() if term.coefficient > 0}
    if len(own) > 1:
        raise ConfigError(
            "model.moe.decoder_router",
            " and ".join(router.kind for router in own),
            "at most one router with a loss of its own",
        )
    return next(iter(own.values()), NoTerm())


@singledispatch
def router_term(router: RouterConfig, moe: MoEConfig) -> RouterTerm:
    """The term that ``router`` brings along; none for most."""
    return NoTerm()


@router_term.register
def _(router: ReinforceRouter, moe: MoEConfig) -> RouterTerm:
    return PolicyGradient(router.policy, moe)


@router_term.register
def _(router: ThorRouter, moe: MoEConfig) -> RouterTerm:
    return Consistency(router.consistency) if router.consistency > 0 else NoTerm()
