"""Blocks with adapters compile whole, and train as they do uncompiled."""

import pytest
import torch

from tests.compiled.gradients import assert_alike
from tests.models.cases import CASES
from turnout.config.lora import LoraConfig
from turnout.models import adapters, build


@pytest.mark.filterwarnings("default")  # the compiler asks a tensor that is no leaf for its .grad
@pytest.mark.parametrize("name", ["switch", "olmoe"])
def test_compiled_blocks_give_the_same_gradients(name):
    plain, compiled = build(CASES[name]), build(CASES[name])
    for model in (plain, compiled):
        model.init_weights(0)
        adapters.adapt(model, LoraConfig(3, targets=("all",)), seed=0)
        generator = torch.Generator().manual_seed(1)
        for each in adapters.carried(model):
            torch.nn.init.normal_(each.adapter.b, std=0.1, generator=generator)
    assert_alike(name, plain, compiled)
