"""More experts in later layers (DeepSpeed-MoE, 2201.05596), and residual experts."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import MODERN, T5, batch_for
from turnout import models
from turnout.config import io
from turnout.config.errors import ConfigError
from turnout.config.moe import MoEConfig, Placement
from turnout.config.routers import TopKRouter

PYRAMID = MoEConfig(
    8, pyramid=(2, 8), placement=Placement(step=1), train_capacity_factor=None, shared_experts=1
)


@pytest.mark.parametrize("family", [MODERN, T5], ids=["decoder-only", "encoder-decoder"])
def test_counts_are_those_of_the_module(family):
    config = replace(family, moe=PYRAMID)
    model = models.build(config, device="meta")
    assert sum(p.numel() for p in model.parameters()) == config.num_params()
    layers = list(model.sparse_layers().values())
    assert [layer.experts.num_experts for layer in layers] == [2, 8] * (len(layers) // 2)
    # Experts of 2 and 8, one that acts in each layer; a shared one beside it.
    ffn = config.feed_forward.num_params(16)
    stacks = len(layers) // 2
    assert config.param_count().components.experts == stacks * 10 * ffn
    assert config.param_count().active_components.experts == stacks * 2 * ffn
    assert config.param_count().components.router == stacks * 10 * 16


def test_it_trains_and_counts_by_layer():
    model = models.build(replace(MODERN, moe=PYRAMID))
    model.init_weights(0)
    output = model(batch_for(model.config, [12, 7], []), routing=True)
    assert [stats.kept.shape[1] for stats in output.layers] == [2, 8]
    output.hidden.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_it_is_written_as_a_list():
    from turnout.config.presets import run

    base = run("switch_demo")
    sparse = len(base.model.stacks()[0].sparse_layers)
    numbers = [2] * (sparse - 1) + [8]
    config = io.override(base, {"model.moe.pyramid": str(numbers)})
    assert config.model.moe.pyramid == tuple(numbers)
    assert io.parse_toml(io.dump_toml(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pyramid": (2, 4)}, r"pyramid = \[2, 4\]: must be of numbers .* \(8\)"),
        ({"pyramid": (0, 8)}, r"pyramid = \[0, 8\]: must be of numbers from 1"),
        ({"pyramid": (2, 8), "router": TopKRouter(4)}, "num_experts = 2: must be at least 4"),
    ],
)
def test_lists_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=message):
        MoEConfig(8, **fields)


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="must be a list of 2, one a sparse layer of the decoder"):
        replace(MODERN, moe=replace(PYRAMID, pyramid=(2, 4, 8)))
