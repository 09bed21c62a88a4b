"""Routers, a file each; importing this package registers all of them with ``build_router``."""

from turnout.moe.routers import (  # noqa: F401  (each file registers itself)
    base_router,
    custom,
    dense_to_sparse,
    dselect_k,
    expert_choice,
    forced,
    hash,
    hierarchical,
    label,
    multi_gate,
    no_token_left_behind,
    noisy_top_k,
    null_experts,
    prototypes,
    reinforce,
    sentence,
    sigmoid_top_k,
    sinkhorn,
    switch,
    task,
    thor,
    top2,
    top_k,
    top_p,
)
from turnout.moe.routers.base import Balancer, Router, RouterShape, build_router
from turnout.moe.routers.custom import register_router
from turnout.moe.routers.scores import choose, linear_float32, router_input, router_stats

__all__ = [
    "Balancer",
    "Router",
    "RouterShape",
    "build_router",
    "choose",
    "linear_float32",
    "register_router",
    "router_input",
    "router_stats",
]
