"""Weights cast once compute the same bits as weights cast at every call."""

import pytest
import torch

from tests.models.cases import CASES, batch_for
from turnout.generate import GenerateOptions, generate
from turnout.models import Model, build, prepared
from turnout.moe.routers import Router


def ready(name: str, dtype: torch.dtype) -> Model:
    model = build(CASES[name], dtype=dtype)
    model.init_weights(0)
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits(name: str) -> None:
    model = ready(name, torch.bfloat16)
    once = prepared(model)
    batch = batch_for(CASES[name], [16, 9], [11, 16])
    with torch.no_grad():
        slow, fast = model(batch), once(batch)
    assert torch.equal(slow.hidden, fast.hidden)
    assert torch.equal(slow.head.logits(slow.hidden), fast.head.logits(fast.hidden))
    prompts = [[3, 14, 15], [9]]
    options = GenerateOptions(6, num_beams=2)
    assert generate(model, prompts, options) == generate(once, prompts, options)


def test_what_is_cast_and_what_is_shared() -> None:
    model = ready("olmoe", torch.bfloat16)
    once = prepared(model)
    before, after = dict(model.named_parameters()), dict(once.named_parameters())
    assert before.keys() == after.keys()
    routers = [m for m in once.modules() if isinstance(m, Router)]
    inside = {id(weight) for router in routers for weight in router.parameters()}
    for name, weight in after.items():
        kept = "norm" in name or id(weight) in inside
        assert (weight is before[name]) == kept, name
        assert weight.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert before[name].dtype == torch.float32 and before[name].requires_grad
    assert prepared(once) is once


def test_float32_is_ready() -> None:
    model = ready("switch", torch.float32)
    assert prepared(model) is model


def test_training_the_model_leaves_what_was_prepared() -> None:
    model = ready("switch", torch.bfloat16)
    once = prepared(model).train()
    assert not model.training
    with torch.no_grad():
        model.embedding.weight.add_(1)
    assert not torch.equal(once.embedding.weight, model.embedding.weight.bfloat16())
