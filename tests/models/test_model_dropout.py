"""Where dropout acts, and the residuals around what it acts on."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.cases import SPARSE, batch_for
from turnout.config.model import ModelConfig
from turnout.models import build
from turnout.models.blocks import SparseSublayer
from turnout.moe.context import RoutingContext
from turnout.nn import dropped_attention

RATE, EXPERT_RATE = 0.25, 0.5
# T5 (1910.10683, section 2.1): on the feed-forward network, the skip connection, the attention
# weights, and the input and output of the entire stack.
#
#   decoder_only of 2 blocks: 2 for the stack, one at each of its 4 skip connections, one in the
#   dense network of block 0; ST-MoE's extra network adds one in it and one at its skip connection.
#   Attention weights: one a block. Experts: one in each sparse layer, at the experts' rate.
#
#   encoder_decoder of 2 + 2 blocks, block 1 of each sparse: twice 2 for the stacks; 4 skip
#   connections in the encoder, 6 in the decoder, which also reads the encoder; 2 dense networks.
EXPECTED = {
    "sparse_glam": Counter(plain=2 + 4 + 1, attention=2, experts=1),
    "switch": Counter(plain=2 * 2 + 4 + 6 + 2, attention=2 + 4, experts=2),
    "st_moe": Counter(plain=2 * 2 + 4 + 6 + 2 + 2 * 2, attention=2 + 4, experts=2),
}


def dropping(config: ModelConfig) -> ModelConfig:
    assert config.moe is not None
    return replace(config, dropout=RATE, moe=replace(config.moe, expert_dropout=EXPERT_RATE))


@pytest.mark.parametrize("name", EXPECTED)
def test_dropout_acts_once_at_every_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Counter[str] = Counter()
    dropout, attention = F.dropout, dropped_attention.attention

    def counted(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        assert training
        found["plain" if p == RATE else "experts"] += 1
        return dropout(x, p, training, inplace)

    def attended(*arguments: Any) -> Tensor:
        assert arguments[4] == RATE
        found["attention"] += 1
        return attention(*arguments)

    monkeypatch.setattr(F, "dropout", counted)
    monkeypatch.setattr(dropped_attention, "attention", attended)
    model = build(dropping(SPARSE[name]))
    model.init_weights(0)
    model.train()
    model(batch_for(SPARSE[name], [16, 9], [16, 9]))
    assert found == EXPECTED[name]


def test_the_extra_network_stands_on_a_residual_of_its_own() -> None:
    """ST-MoE (2202.08906, appendix C): with nothing in the networks the block changes nothing."""
    model = build(SPARSE["st_moe"])
    model.init_weights(0)
    sparse = [m for m in model.modules() if isinstance(m, SparseSublayer)]
    assert len(sparse) == 2
    for sublayer in sparse:
        assert sublayer.extra is not None
        with torch.no_grad():
            sublayer.moe.experts.w_out.zero_()
            sublayer.extra.network.w_out.zero_()
        x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
        output = sublayer(x, RoutingContext.of(torch.ones(2, 16, dtype=torch.bool)))
        assert torch.equal(output.hidden, x)
