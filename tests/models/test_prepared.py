"""Weights cast once compute the bits of weights cast at every call; packed ones, the numbers."""

import pytest
import torch

from tests.kernels.cases import PACKINGS, pack_everything
from tests.models.cases import CASES, batch_for
from turnout.config.feed_forward import FeedForwardConfig
from turnout.generate import GenerateOptions, generate
from turnout.models import Model, build, prepared
from turnout.moe.experts import Experts
from turnout.moe.packed import PackedExperts
from turnout.moe.routers import Router
from turnout.nn import packed


def ready(name: str, dtype: torch.dtype) -> Model:
    model = build(CASES[name], dtype=dtype)
    model.init_weights(0)
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits(name: str) -> None:
    model = ready(name, torch.bfloat16)
    once = prepared(model, pack=False)
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
    once = prepared(model, pack=False)
    before, after = dict(model.named_parameters()), dict(once.named_parameters())
    assert before.keys() == after.keys()
    routers = [m for m in once.modules() if isinstance(m, Router)]
    inside = {id(weight) for router in routers for weight in router.parameters()}
    for name, weight in after.items():
        kept = "norm" in name or id(weight) in inside
        assert (weight is before[name]) == kept, name
        assert weight.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert before[name].dtype == torch.float32 and before[name].requires_grad
    assert prepared(once, pack=False) is once


def test_float32_is_ready() -> None:
    model = ready("switch", torch.float32)
    assert prepared(model, pack=False) is model


def test_training_the_model_leaves_what_was_prepared() -> None:
    model = ready("switch", torch.bfloat16)
    once = prepared(model, pack=False).train()
    assert not model.training
    with torch.no_grad():
        model.embedding.weight.add_(1)
    assert not torch.equal(once.embedding.weight, model.embedding.weight.bfloat16())


@pytest.fixture(params=PACKINGS)
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every matrix is packed."""
    pack_everything(monkeypatch, request.param)
    return str(request.param)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("name", CASES)
def test_packed_matrices_compute_the_same(name: str) -> None:
    model = ready(name, torch.float32)
    once = prepared(model)
    assert once is not model and prepared(once) is once
    batch = batch_for(CASES[name], [16, 9], [11, 16])
    with torch.no_grad():
        slow, fast = model(batch), once(batch)
    torch.testing.assert_close(slow.hidden, fast.hidden, rtol=1e-4, atol=1e-5)
    logits = [each.head.logits(each.hidden) for each in (slow, fast)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    for one, other in zip(slow.layers, fast.layers, strict=True):
        assert torch.equal(one.kept, other.kept)
    prompts = [[3, 14, 15], [9]]
    for options in (GenerateOptions(6), GenerateOptions(6, num_beams=2)):
        assert generate(model, prompts, options) == generate(once, prompts, options)


def test_nothing_large_is_left_as_it_was(packing: str) -> None:
    model = ready("switch", torch.float32)
    once = prepared(model)
    before = {id(weight) for weight in model.parameters()}
    for name, weight in once.named_parameters():
        kept = any(each in name for each in (".router.", "norm", "position_bias"))
        kept |= name == "embedding.weight"
        assert (id(weight) in before) == kept, name
        assert weight.is_mkldnn == (packing == "onednn" and not kept), name
    head = once.output_head()
    assert head.packed and head.weight is once.packed_embedding
    assert head.weight.is_mkldnn == (packing == "onednn")


FORMS = {
    "plain": FeedForwardConfig(24),
    "gated": FeedForwardConfig(24, "swiglu"),
    "biased": FeedForwardConfig(24, "geglu", bias=True),
    "hidden bias": FeedForwardConfig(24, hidden_bias="multiplicative"),
}
LOADS = {"even": [2, 2, 2], "one": [0, 5, 0], "some past the last": [1, 0, 2], "none": [0, 0, 0]}


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("load", LOADS)
def test_packed_experts_are_the_experts(load: str, form: str, dtype: torch.dtype) -> None:
    experts = Experts(3, 16, FORMS[form])
    experts.init_weights(torch.Generator().manual_seed(0), std=0.3)
    with torch.no_grad():
        for weight in experts.parameters():
            if weight.dim() == 2:
                weight.add_(torch.arange(weight.numel()).view_as(weight) % 5 / 4)
    offsets = torch.tensor(LOADS[load]).cumsum(0).to(torch.int32)
    past = 2 if load == "some past the last" else 0
    rows = torch.randn(sum(LOADS[load]) + past, 16, generator=torch.Generator().manual_seed(1))
    rows[sum(LOADS[load]) :] = torch.nan
    with torch.no_grad():
        expected = experts.eval()(rows.to(dtype), offsets)
        found = PackedExperts(experts, dtype)(rows.to(dtype), offsets)
    assert found.dtype == dtype and found.shape == rows.shape
    live = slice(0, sum(LOADS[load]))
    torch.testing.assert_close(
        found[live], expected[live], rtol=1e-2, atol=1e-5 if dtype == torch.float32 else 0.1
    )
    assert found.isfinite().all()


def test_small_matrices_and_other_dtypes_stay() -> None:
    large, small = torch.zeros(512, 512), torch.zeros(8, 8)
    assert packed.packs(large, torch.float32) == packed.WIDE
    assert not packed.packs(small, torch.float32)
    assert not packed.packs(large, torch.float64) and not packed.packs(large, torch.float16)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 17), (37,), (2, 64), (0,), (2, 0)])
def test_any_number_of_rows(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 8, generator=generator)
    weight, bias = torch.randn(6, 8, generator=generator), torch.randn(6, generator=generator)
    found = packed.packed_linear(x, packed.packed(weight), bias)
    torch.testing.assert_close(found, x @ weight.t() + bias, rtol=1e-5, atol=1e-5)
