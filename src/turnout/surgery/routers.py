"""What surgery asks of routers: which have a row an expert, which choose more or fewer, whose
combine weights add up to one."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import (
    BaseRouter,
    CombineWeights,
    DenseToSparseRouter,
    ExpertChoiceRouter,
    LabelRouter,
    NoisyTopKRouter,
    NoTokenLeftBehindRouter,
    NullExpertsRouter,
    RouterConfig,
    SigmoidTopKRouter,
    SinkhornRouter,
    SwitchRouter,
    TaskRouter,
    ThorRouter,
    Top2Router,
    TopKRouter,
    TopPRouter,
)
from turnout.surgery.layers import Layer

# Their tensors all have one row, or one number, an expert.
BY_ROW = (
    *(SwitchRouter.kind, TopKRouter.kind, NoisyTopKRouter.kind, Top2Router.kind, TopPRouter.kind),
    *(NoTokenLeftBehindRouter.kind, SigmoidTopKRouter.kind, BaseRouter.kind, SinkhornRouter.kind),
    *(DenseToSparseRouter.kind, ExpertChoiceRouter.kind),
)


def require_rows(layers: dict[str, Layer]) -> None:
    """Raises UserError unless experts can be told apart by rows of their router alone."""
    for layer in layers.values():
        assert layer.moe is not None
        router = layer.moe.router
        if router.kind not in BY_ROW:
            raise UserError(
                f"model.moe.router.kind = {router.kind!r}: must be one with a row an expert "
                f"({', '.join(sorted(BY_ROW))})"
            )
        if _groups(router) > 1:
            raise UserError(
                f"model.moe.router.expert_groups = {_groups(router)}: must be 1, or which experts "
                "are groups would change"
            )


@singledispatch
def with_k(router: RouterConfig, k: int) -> RouterConfig:
    """The router that chooses ``k``.

    Raises:
        UserError: it has no number of choices; or ``k`` is none for it.
    """
    raise UserError(
        f"model.moe.router.kind = {router.kind!r}: has no k to change; top_k and its like have one"
    )


@with_k.register
def _(
    router: NoisyTopKRouter | NullExpertsRouter | ThorRouter | TaskRouter, k: int
) -> RouterConfig:
    return replace(router, k=k)


@with_k.register
def _(router: TopKRouter | SigmoidTopKRouter, k: int) -> RouterConfig:
    """One choice has raw weights: a renormalised one would always be 1."""
    return replace(router, k=k, weights="raw") if k == 1 else replace(router, k=k)


@with_k.register
def _(router: SwitchRouter, k: int) -> RouterConfig:
    """Switch is top-1 with raw weights; with more choices it is top-k with raw weights."""
    if k == 1:
        return router
    return TopKRouter(k, "raw", exploration=router.exploration, bias=router.bias)


@with_k.register
def _(router: Top2Router, k: int) -> RouterConfig:
    """Renormalised top-k, which in evaluation is what top-2 is."""
    if k == 2:
        return router
    weights: CombineWeights = "raw" if k == 1 else "renormalised"
    return TopKRouter(k, weights, exploration=router.exploration)


def goes_back(old: MoEConfig, new: MoEConfig) -> bool:
    """Whether ``new``, with as many choices as ``old``, routes as ``old`` in training too."""
    try:
        again = all_routers(new, lambda router: with_k(router, old.router.active))
    except UserError:
        return False
    wanted = all_routers(old, lambda router: router)
    return all(_same(again[name], wanted[name]) for name in wanted)


def _same(one: RouterConfig | None, other: RouterConfig | None) -> bool:
    return one == other or (one is not None and other is not None and _plain(one) == _plain(other))


@singledispatch
def _plain(router: RouterConfig) -> RouterConfig:
    """The one of several configurations of the same router."""
    return router


@_plain.register
def _(router: SwitchRouter) -> RouterConfig:
    return TopKRouter(1, "raw", exploration=router.exploration, bias=router.bias)


@_plain.register
def _(router: Top2Router) -> RouterConfig:
    if (router.second, router.second_in_evaluation) == ("all", "all"):
        return TopKRouter(2, exploration=router.exploration)
    return router


def whole(moe: MoEConfig) -> bool:
    """Whether a token's combine weights add up to 1 in evaluation, when nothing is dropped."""
    if moe.output_masking > 0:  # all weights times what masking leaves
        return False
    chosen = moe.router.kind != ExpertChoiceRouter.kind  # which may leave a token without any
    return sums_to_one(moe.router) or (moe.weights_after_drops and chosen)


@singledispatch
def sums_to_one(router: RouterConfig) -> bool:
    """Whether the weights that a router gives a token add up to 1 in evaluation."""
    return False


@sums_to_one.register
def _(router: TopKRouter) -> bool:
    return router.weights != "raw" and router.scale == 1.0


@sums_to_one.register
def _(router: SigmoidTopKRouter) -> bool:
    return router.weights != "raw" and router.scale == 1.0


@sums_to_one.register
def _(router: Top2Router) -> bool:
    return router.second_in_evaluation == "all"


@sums_to_one.register
def _(router: TopPRouter) -> bool:
    return router.weights == "renormalised"


@sums_to_one.register
def _(router: NoisyTopKRouter | LabelRouter | ThorRouter) -> bool:
    return True


@singledispatch
def halved(router: RouterConfig, copies: int) -> RouterConfig | None:
    """The router of ``copies`` of each expert with equal rows, that gives them together the weight
    that the one had, or None where there is none."""
    return None


@halved.register
def _(router: TopKRouter | SwitchRouter, copies: int) -> RouterConfig | None:
    """Probabilities of equal rows are equal shares: raw or renormalised, they add up."""
    return with_k(router, router.active * copies)


@halved.register
def _(router: NoisyTopKRouter, copies: int) -> RouterConfig | None:
    return replace(router, k=router.k * copies)


@halved.register
def _(router: Top2Router, copies: int) -> RouterConfig | None:
    return with_k(router, 2 * copies) if sums_to_one(router) else None


@halved.register
def _(router: SigmoidTopKRouter, copies: int) -> RouterConfig | None:
    """Sigmoids of equal rows are equal, no shares: raw ones are divided."""
    scale = router.scale / copies if router.weights == "raw" else router.scale
    return replace(router, k=router.k * copies, scale=scale)


def all_routers(
    moe: MoEConfig, change: Callable[[RouterConfig], RouterConfig]
) -> dict[str, RouterConfig | None]:
    """The fields of ``moe`` that hold routers, changed."""
    decoder = moe.decoder_router
    return {
        "router": change(moe.router),
        "decoder_router": None if decoder is None else change(decoder),
    }


def never_drops(config: ModelConfig) -> bool:
    """Whether evaluation serves every choice, so that loads do not matter."""
    moe = config.moe
    return moe is None or (moe.eval_capacity_factor is None and moe.eval_slots is None)


def expected_weight(moe: MoEConfig) -> float:
    """What a token's combine weights add up to in evaluation behind a router that knows nothing,
    whose logits are all 0."""
    given = 1.0 if moe.weights_after_drops else shrinks(moe.router, moe.num_experts)
    return given * (1.0 - moe.output_masking)


@singledispatch
def shrinks(router: RouterConfig, experts: int) -> float:
    """The same of the weights that the router gives: 1, or the share of the experts that it
    chooses."""
    return 1.0 if sums_to_one(router) else min(router.active / experts, 1.0)


@shrinks.register
def _(router: TopKRouter, experts: int) -> float:
    return router.scale * (router.k / experts if router.weights == "raw" else 1.0)


@shrinks.register
def _(router: SigmoidTopKRouter, experts: int) -> float:
    """The sigmoid of 0 is 1 / 2."""
    return router.scale * (router.k / 2 if router.weights == "raw" else 1.0)


@shrinks.register
def _(router: BaseRouter, experts: int) -> float:
    """The weight of the one expert is a sigmoid (2103.16716)."""
    return 0.5


@shrinks.register
def _(router: Top2Router, experts: int) -> float:
    """Each of the two has half of the weight; the second may be declined."""
    policy = router.second_in_evaluation
    taken = policy == "all" or (policy == "threshold" and router.threshold < 0.5)
    return 1.0 if taken else 0.5


@shrinks.register
def _(router: TopPRouter, experts: int) -> float:
    """Experts of probability 1 / E are taken until they add up to p."""
    if router.weights == "renormalised":
        return 1.0
    taken = math.ceil(round(router.p * experts, 9))  # 0.7 * 10 is above 7 in floating point
    return min(taken, router.most, experts) / experts


@shrinks.register
def _(router: DenseToSparseRouter, experts: int) -> float:
    """All experts are above the threshold."""
    return 1.0


@singledispatch
def _groups(router: RouterConfig) -> int:
    return 1


@_groups.register
def _(router: TopKRouter | SigmoidTopKRouter) -> int:
    return router.expert_groups
