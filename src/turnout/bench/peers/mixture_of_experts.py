"""The sparse layer of mixture-of-experts: top-2 by tables of tokens, experts and slots."""

from importlib import import_module
from typing import final

import torch
from torch import nn

from turnout.bench.peers.base import LayerPeer, OutputAlone, capacity_factor, table_bytes
from turnout.moe.layer import MoELayer


@final
class MixtureOfExpertsPeer(LayerPeer):
    """Every second choice is taken up."""

    name = "mixture-of-experts"

    def takes(self, k: int) -> bool:
        return k == 2

    def needed(self, tokens: int, experts: int, capacity: int, k: int) -> int:
        return table_bytes(tokens, experts, capacity, 8)

    def layer(self, ours: MoELayer, capacity: int, row: int) -> nn.Module:
        w_in, w_out = (ours.experts.get_parameter(name) for name in ("w_in", "w_out"))
        experts, width, hidden = w_in.shape
        factor = capacity_factor(capacity, experts, row)
        theirs = import_module("mixture_of_experts").MoE(
            dim=width,
            num_experts=experts,
            hidden_dim=hidden,
            second_policy_train="all",
            second_policy_eval="all",
            capacity_factor_train=factor,
            capacity_factor_eval=factor,
        )
        with torch.no_grad():
            theirs.gate.w_gating.copy_(ours.router.get_parameter("weight").t())
            theirs.experts.w1.copy_(w_in)
            theirs.experts.w2.copy_(w_out)
        return OutputAlone(theirs)
