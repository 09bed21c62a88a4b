"""Which layer of ours computes what a sparse block of the library computes.

Axes: E experts, D width, F hidden width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from turnout.config.errors import ConfigError, UserError
from turnout.config.feed_forward import Activation, FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import SigmoidTopKRouter, TopKRouter
from turnout.config.routers.top_k import CombineWeights

GATED: dict[str, Activation] = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_new": "geglu",
    "gelu_pytorch_tanh": "geglu",
}


class Unfit(UserError):
    """Why a block has no layer of ours."""


@dataclass(frozen=True)
class Recipe:
    """What ``build_layer`` is told."""

    moe: MoEConfig
    d_model: int
    feed_forward: FeedForwardConfig


def recipe(block: Any) -> Recipe:
    """The layer that computes what a block computes.

    Raises:
        Unfit: there is none, with the reason.
    """
    kind = type(block).__name__
    if kind not in RECIPES:
        raise Unfit(f"{kind}: not one of {', '.join(RECIPES)}")
    if "forward" in vars(block):
        raise Unfit("its forward is wrapped, as by a device map or an offload: swap it before")
    if not block.experts.gate_up_proj.is_floating_point():
        raise Unfit("its experts are quantised")
    try:
        return RECIPES[kind](block)
    except ConfigError as error:
        raise Unfit(str(error)) from error


def _mixtral(block: Any) -> Recipe:
    if block.jitter_noise > 0:
        raise Unfit(f"router_jitter_noise = {block.jitter_noise}: its noise has no twin here")
    return _top_k(block, "renormalised")


def _olmoe(block: Any) -> Recipe:
    return _top_k(block, "renormalised" if block.gate.norm_topk_prob else "raw")


def _top_k(block: Any, weights: CombineWeights) -> Recipe:
    return _of(
        block,
        MoEConfig(
            block.experts.num_experts,
            TopKRouter(k=block.gate.top_k, weights=weights),
            train_capacity_factor=None,
        ),
    )


def _deepseek_v3(block: Any) -> Recipe:
    gate = block.gate
    router = SigmoidTopKRouter(
        k=gate.top_k,
        expert_groups=gate.num_group,
        groups_kept=gate.topk_group,
        scale=gate.routed_scaling_factor,
        weights="renormalised" if gate.norm_topk_prob else "raw",
    )
    shared = block.experts.config.n_shared_experts
    return _of(
        block,
        MoEConfig(
            block.experts.num_experts, router, shared_experts=shared, train_capacity_factor=None
        ),
    )


def _of(block: Any, moe: MoEConfig) -> Recipe:
    act = block.experts.config.hidden_act
    if act not in GATED:
        raise Unfit(f"hidden_act = {act!r}: must be one of {', '.join(GATED)}")
    experts = block.experts
    width = FeedForwardConfig(experts.intermediate_dim, GATED[act])
    return Recipe(moe, experts.hidden_dim, width)


RECIPES: dict[str, Callable[[Any], Recipe]] = {
    "MixtralSparseMoeBlock": _mixtral,
    "OlmoeSparseMoeBlock": _olmoe,
    "Qwen3MoeSparseMoeBlock": _olmoe,
    "DeepseekV3MoE": _deepseek_v3,
}
