"""Which losses a run has, and with which coefficients."""

from dataclasses import dataclass, replace
from typing import Literal

from turnout.config.errors import check_words, not_negative

BalanceVariant = Literal[
    "switch",
    "mesh",
    "st_moe",
    "lingvo",
    "gshard",
    "deepseek",
    "megablocks",
    "flaxformer",
    "mixtral",
]
Scope = Literal["group", "batch", "previous"]


@dataclass(frozen=True)
class LossConfig:
    """Coefficients; zero switches a term off, and nothing else does.

    ``balance`` load balancing, ``router_z`` router z-loss (ST-MoE eq. 5), ``importance`` and
    ``load`` Shazeer's CV^2 losses, ``entropy`` of the router's probabilities, which it sharpens
    (2403.07652), ``head_z`` the z-loss on the output logits (T5X 1e-4).
    ``scope`` is what the non-linear terms are computed over. ``layers`` sums the sparse layers'
    terms (Switch) or averages them (T5X).
    """

    balance: float = 0.01
    balance_variant: BalanceVariant = "switch"
    router_z: float = 0.001
    importance: float = 0.0
    load: float = 0.0
    entropy: float = 0.0
    head_z: float = 0.0
    scope: Scope = "group"
    layers: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_words(self, "losses")
        for name in ("balance", "router_z", "importance", "load", "entropy", "head_z"):
            not_negative(f"losses.{name}", getattr(self, name))

    def without_router(self) -> "LossConfig":
        """The same without the terms that need a router."""
        return replace(self, balance=0.0, router_z=0.0, importance=0.0, load=0.0, entropy=0.0)
