"""The core: routing, capacity, dispatch, stacked experts, statistics and losses."""

from turnout.moe.assignment import Assignment
from turnout.moe.build import build_layer
from turnout.moe.context import RoutingContext
from turnout.moe.experts import Experts
from turnout.moe.layer import CapacityRule, MoELayer
from turnout.moe.losses import router_losses
from turnout.moe.record import RoutingRecord
from turnout.moe.routers import Router, RouterShape, build_router
from turnout.moe.stats import LayerDecision, LayerStats, RouterStats

__all__ = [
    "Assignment",
    "CapacityRule",
    "Experts",
    "LayerDecision",
    "LayerStats",
    "MoELayer",
    "Router",
    "RouterShape",
    "RouterStats",
    "RoutingContext",
    "RoutingRecord",
    "build_layer",
    "build_router",
    "router_losses",
]
