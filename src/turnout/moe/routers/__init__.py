"""Routers, a file each; importing this package registers all of them with ``build_router``."""

from turnout.moe.routers import (  # noqa: F401  (each file registers itself)
    no_token_left_behind,
    noisy_top_k,
    reinforce,
    switch,
    top2,
    top_k,
)
from turnout.moe.routers.base import Balancer, Router, RouterShape, build_router

__all__ = ["Balancer", "Router", "RouterShape", "build_router"]
