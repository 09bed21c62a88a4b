"""Sparse blocks of Hugging Face transformers, wrapped in a line each."""

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, OlmoeConfig, SwitchTransformersConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
)

from turnout.conformance import ForeignLayer, check
from turnout.conformance.properties import PROPERTIES

PLAIN = [asked for asked in PROPERTIES if asked.name != "compiled"]


def filled(block: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.25, generator=generator)
    return block


def mixtral() -> nn.Module:
    config = MixtralConfig(
        hidden_size=16, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    return filled(MixtralSparseMoeBlock(config))


def olmoe() -> nn.Module:
    config = OlmoeConfig(hidden_size=16, intermediate_size=32, num_experts=4, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    return filled(OlmoeSparseMoeBlock(config))


def switch() -> nn.Module:
    config = SwitchTransformersConfig(
        d_model=16, d_ff=32, num_experts=4, expert_capacity=4, router_jitter_noise=0.1
    )
    return filled(SwitchTransformersSparseMLP(config))


@pytest.mark.parametrize("block", [mixtral, olmoe])
def test_dropless_blocks_keep_what_can_be_asked(block):
    found = check(ForeignLayer(block(), 16), PLAIN)
    assert found.passed, found.text()
    assert sum(finding.status == "holds" for finding in found.findings) >= 8


def test_a_block_that_jitters_its_input_in_place_is_caught():
    """transformers 5.23: the router multiplies the hidden states themselves by its noise, and slots
    go by place, so that tokens that change places do not keep their outputs."""
    found = check(ForeignLayer(switch(), 16), PLAIN)
    assert set(found.failures) == {"permutation", "input left alone"}, found.text()
