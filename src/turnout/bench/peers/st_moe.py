"""The sparse layer of st-moe-pytorch: top-n by tables of tokens, experts and slots."""

import warnings
from importlib import import_module
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from turnout.bench.peers.base import LayerPeer, OutputAlone, capacity_factor, table_bytes
from turnout.moe.layer import MoELayer


@final
class StMoePeer(LayerPeer):
    """Its experts are given as networks like ours; by itself it has gated ones.

    No choice is declined (threshold 0), and no gradient goes through the dispatch table, as none
    does in ours.
    """

    name = "st-moe-pytorch"

    def takes(self, k: int) -> bool:
        return k > 1

    def needed(self, tokens: int, experts: int, capacity: int, k: int) -> int:
        return table_bytes(tokens, experts, capacity, 2 * k + 4)

    def layer(self, ours: MoELayer, capacity: int, row: int) -> nn.Module:
        w_in, w_out = (ours.experts.get_parameter(name) for name in ("w_in", "w_out"))
        factor = capacity_factor(capacity, len(w_in), row)
        theirs = _library().MoE(
            dim=w_in.shape[1],
            num_experts=len(w_in),
            gating_top_n=ours.router.choices,
            threshold_train=0.0,
            threshold_eval=0.0,
            capacity_factor_train=factor,
            capacity_factor_eval=factor,
            straight_through_dispatch_tensor=False,
            experts=nn.ModuleList(map(_network, w_in, w_out)),
        )
        with torch.no_grad():
            theirs.gate.to_gates.weight.copy_(ours.router.get_parameter("weight"))
        return OutputAlone(theirs)


def _library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of beartype, about the library's type hints
        return import_module("st_moe_pytorch")


def _network(w_in: Float[Tensor, "D F"], w_out: Float[Tensor, "F D"]) -> nn.Module:
    width, hidden = w_in.shape
    first, second = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
    with torch.no_grad():
        first.weight.copy_(w_in.t())
        second.weight.copy_(w_out.t())
    return nn.Sequential(first, nn.ReLU(), second)
