"""Blocks with adapters compile whole, and train as they do uncompiled."""

import pytest
import torch

from tests.models.cases import CASES, batch_for
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
    for stack in compiled.stacks():
        stack.compile_blocks("aot_eager")
    for first, lengths in enumerate(([16, 9], [3, 16])):
        batch = batch_for(CASES[name], lengths, [12, 16])
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            for model in (plain, compiled):
                model.zero_grad()
                model(batch).hidden.sin().sum().backward()
        for (one, p), (other, q) in zip(
            plain.named_parameters(), compiled.named_parameters(), strict=True
        ):
            assert one == other
            assert (p.grad is None) == (q.grad is None), one
            if p.grad is not None:
                apart = float((q.grad - p.grad).abs().max())
                assert apart <= 1e-5 * float(p.grad.abs().max()), one
