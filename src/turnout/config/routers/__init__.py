"""Router configurations, a file each; ``RouterConfig`` is their union, told apart by ``kind``."""

from turnout.config.routers.custom import CustomRouter
from turnout.config.routers.exploration import (
    Argmax,
    Exploration,
    InputDropout,
    InputJitter,
    SampledSoftmax,
)
from turnout.config.routers.no_token_left_behind import NoTokenLeftBehindRouter
from turnout.config.routers.noisy_top_k import NoisyTopKRouter
from turnout.config.routers.reinforce import ReinforceRouter
from turnout.config.routers.switch import SwitchRouter
from turnout.config.routers.top2 import Top2Router
from turnout.config.routers.top_k import CombineWeights, TopKRouter

RouterConfig = (
    SwitchRouter
    | TopKRouter
    | NoisyTopKRouter
    | Top2Router
    | NoTokenLeftBehindRouter
    | ReinforceRouter
    | CustomRouter
)

__all__ = [
    "Argmax",
    "CombineWeights",
    "CustomRouter",
    "Exploration",
    "InputDropout",
    "InputJitter",
    "NoTokenLeftBehindRouter",
    "NoisyTopKRouter",
    "ReinforceRouter",
    "RouterConfig",
    "SampledSoftmax",
    "SwitchRouter",
    "Top2Router",
    "TopKRouter",
]
