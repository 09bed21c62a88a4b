"""Router configurations, a file each; ``RouterConfig`` is their union, told apart by ``kind``."""

from turnout.config.routers.base_router import BaseRouter
from turnout.config.routers.custom import CustomRouter
from turnout.config.routers.dense_to_sparse import DenseToSparseRouter
from turnout.config.routers.dselect_k import DSelectKRouter
from turnout.config.routers.expert_choice import ExpertChoiceRouter
from turnout.config.routers.exploration import (
    Argmax,
    Exploration,
    InputDropout,
    InputJitter,
    SampledSoftmax,
)
from turnout.config.routers.forced import ForcedRouter
from turnout.config.routers.hash import HashRouter
from turnout.config.routers.hierarchical import HierarchicalRouter
from turnout.config.routers.label import LabelRouter
from turnout.config.routers.multi_gate import MultiGateRouter
from turnout.config.routers.no_token_left_behind import NoTokenLeftBehindRouter
from turnout.config.routers.noisy_top_k import NoisyTopKRouter
from turnout.config.routers.null_experts import NullExpertsRouter
from turnout.config.routers.prototypes import PrototypesRouter
from turnout.config.routers.reinforce import ReinforceRouter
from turnout.config.routers.sentence import SentenceRouter
from turnout.config.routers.sigmoid_top_k import SigmoidTopKRouter
from turnout.config.routers.sinkhorn import SinkhornRouter
from turnout.config.routers.switch import SwitchRouter
from turnout.config.routers.task import TaskRouter
from turnout.config.routers.thor import ThorRouter
from turnout.config.routers.top2 import Top2Router
from turnout.config.routers.top_k import CombineWeights, TopKRouter
from turnout.config.routers.top_p import TopPRouter

RouterConfig = (
    SwitchRouter
    | TopKRouter
    | NoisyTopKRouter
    | Top2Router
    | NoTokenLeftBehindRouter
    | ReinforceRouter
    | HashRouter
    | LabelRouter
    | TaskRouter
    | SentenceRouter
    | MultiGateRouter
    | ThorRouter
    | ForcedRouter
    | HierarchicalRouter
    | CustomRouter
    | SigmoidTopKRouter
    | PrototypesRouter
    | TopPRouter
    | NullExpertsRouter
    | DenseToSparseRouter
    | DSelectKRouter
    | ExpertChoiceRouter
    | BaseRouter
    | SinkhornRouter
)

__all__ = [
    "Argmax",
    "BaseRouter",
    "CombineWeights",
    "CustomRouter",
    "DSelectKRouter",
    "DenseToSparseRouter",
    "ExpertChoiceRouter",
    "Exploration",
    "ForcedRouter",
    "HashRouter",
    "HierarchicalRouter",
    "InputDropout",
    "InputJitter",
    "LabelRouter",
    "MultiGateRouter",
    "NoTokenLeftBehindRouter",
    "NoisyTopKRouter",
    "NullExpertsRouter",
    "PrototypesRouter",
    "ReinforceRouter",
    "RouterConfig",
    "SampledSoftmax",
    "SentenceRouter",
    "SigmoidTopKRouter",
    "SinkhornRouter",
    "SwitchRouter",
    "TaskRouter",
    "ThorRouter",
    "Top2Router",
    "TopKRouter",
    "TopPRouter",
]
