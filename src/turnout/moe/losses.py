"""Auxiliary losses as functions of additive sums: unweighted, cited, with a known value.

Each takes the sums of one or more scopes, a row a scope, and gives one value a row; a row
without tokens gives zero and no gradient. Axes: G rows, E experts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from turnout.config.losses import BalanceVariant
from turnout.moe.stats import LayerStats
from turnout.pytree import pytree


@pytree()
@dataclass(frozen=True)
class LossSums:
    """The sums that losses read, a row a scope (a routing group, or the whole batch).

    The counts are int64, or float64 where another step's sums were scaled to this one's tokens.
    """

    tokens: Num[Tensor, " G"]
    assigned: Num[Tensor, "G E"]
    first_choice: Num[Tensor, "G E"]
    probability: Float[Tensor, "G E"]
    weight: Float[Tensor, "G E"]
    load: Float[Tensor, "G E"]

    @staticmethod
    def of(stats: LayerStats) -> "LossSums":
        """The sums of one layer, a row a routing group, with gradient."""
        router = stats.router
        return LossSums(
            tokens=router.tokens,
            assigned=router.assigned,
            first_choice=router.first_choice,
            probability=router.probability,
            weight=router.weight,
            load=router.load,
        )


@dataclass(frozen=True)
class BalanceForm:
    """``normaliser * sum_i f_i P_i``: which choices f counts, and what multiplies the sum."""

    counts: Literal["first_choice", "assigned"]
    normaliser: Literal["experts", "experts_per_choice", "one_over_experts"]
    uniform: str
    source: str


# Loss forms by the name of the system that computes them.
BALANCE_FORMS: dict[str, BalanceForm] = {
    "switch": BalanceForm(
        "first_choice", "experts", "1", "Switch Transformers 2101.03961, equation 4, without alpha"
    ),
    "mesh": BalanceForm("first_choice", "experts", "1", "Mesh-TF moe.py, top-2"),
    "st_moe": BalanceForm("first_choice", "experts", "1", "ST-MoE 2202.08906, appendix G"),
    "lingvo": BalanceForm("first_choice", "experts", "1", "lingvo: GShard's times E^2"),
    "gshard": BalanceForm(
        "first_choice", "one_over_experts", "1 / E^2", "GShard 2006.16668, algorithm 1"
    ),
    "deepseek": BalanceForm(
        "assigned", "experts_per_choice", "1", "DeepSeekMoE 2401.06066, equations 12 to 14"
    ),
    "megablocks": BalanceForm(
        "assigned", "experts_per_choice", "1", "MegaBlocks 2211.15841; it averages over layers"
    ),
    "flaxformer": BalanceForm("assigned", "experts", "k", "Flaxformer routing.py"),
    "mixtral": BalanceForm(
        "assigned", "experts", "k", "Hugging Face Mixtral, a layer; it pools layers first"
    ),
}


def load_balancing_loss(sums: LossSums, *, choices: int, form: BalanceForm) -> Float[Tensor, " G"]:
    """``E * sum_i f_i P_i`` and its named variants.

    ``f_i`` is the share of tokens sent to expert i (a count, without gradient), ``P_i`` the mean
    probability of expert i over the same tokens.
    """
    experts = sums.probability.shape[1]
    tokens = sums.tokens.clamp(min=1).to(sums.probability.dtype).unsqueeze(1)
    counts = sums.first_choice if form.counts == "first_choice" else sums.assigned
    scale = {
        "experts": float(experts),
        "experts_per_choice": experts / choices,
        "one_over_experts": 1 / experts,
    }[form.normaliser]
    return scale * (counts / tokens * (sums.probability / tokens)).sum(1)


def router_losses(
    stats: LayerStats,
    *,
    balance: float = 0.01,
    router_z: float = 0.001,
    variant: BalanceVariant = "switch",
    groups: int | None = None,
    tokens: int | None = None,
) -> Float[Tensor, ""]:
    """Both usual losses of one layer in a plain training loop, weighted and ready to add.

    The load balancing loss is averaged over the routing groups that hold tokens, the router
    z-loss over tokens; coefficients as in Switch Transformers and ST-MoE.

    Args:
        groups: of the whole step, where micro-batches or ranks share it; their parts add up to
            the loss then. By default those of these sums.
        tokens: likewise.
    """
    form = BALANCE_FORMS[variant]
    balanced = load_balancing_loss(LossSums.of(stats), choices=stats.choices, form=form)
    of_groups = (stats.router.tokens > 0).sum().clamp(min=1) if groups is None else groups
    of_tokens = stats.router.tokens.sum().clamp(min=1) if tokens is None else tokens
    return balance * balanced.sum() / of_groups + router_z * stats.router.z.sum() / of_tokens


def importance_loss(sums: LossSums) -> Float[Tensor, " G"]:
    """``CV(sum_x G(x))^2``, the squared coefficient of variation of each expert's total combine
    weight (Shazeer et al. 2017, equation 7). Uniform: 0."""
    return squared_variation(sums.weight)


def load_loss(sums: LossSums) -> Float[Tensor, " G"]:
    """``CV(Load)^2`` of the smooth load (Shazeer et al. 2017, equation 11). Uniform: 0."""
    return squared_variation(sums.load)


def squared_variation(sums: Float[Tensor, "G E"]) -> Float[Tensor, " G"]:
    """Population variance over squared mean, a row; 0 for a row of zeros and for E = 1."""
    mean = sums.mean(1)
    some = mean.abs() > 0
    variance = (sums - mean.unsqueeze(1)).square().mean(1)
    return torch.where(some, variance, 0.0) / torch.where(some, mean, 1.0).square()
