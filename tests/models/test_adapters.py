"""Adapters in models of every form: the same function merged, nothing frozen computed, refusals."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.models.cases import CASES, batch_for
from turnout.config.errors import ConfigError, UserError
from turnout.config.lora import LoraConfig
from turnout.models import Model, adapters, build, prepared

ALL = LoraConfig(rank=3, alpha=2.0, targets=("all",))
LENGTHS = ([16, 9], [12, 16])
PRODUCTS = frozenset(
    ("mm", "bmm", "addmm", "addmm_", "linear", "grouped_outer", "masked_product_backward")
)


def plain(name: str, **words: object) -> Model:
    model = build(CASES[name], **words)  # type: ignore[arg-type]
    model.init_weights(0)
    return model


def adapted(name: str, config: LoraConfig = ALL, **words: object) -> Model:
    """A model whose adapters do something."""
    model = plain(name, **words)
    adapters.adapt(model, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for each in adapters.carried(model):
        torch.nn.init.normal_(each.adapter.b, std=0.1, generator=generator)
    return model


def hidden(model: Model) -> Tensor:
    return model(batch_for(model.config, *LENGTHS)).hidden


@torch.no_grad()
def close(one: Tensor, other: Tensor, share: float = 1e-5) -> None:
    assert float((one - other).abs().max()) <= share * float(other.abs().max())


def test_what_was_frozen_before_is_frozen_after() -> None:
    name = next(iter(CASES))
    model = plain(name)
    model.embedding.requires_grad_(False)
    before = {each: weight.requires_grad for each, weight in model.named_parameters()}
    assert set(before.values()) == {True, False}
    adapters.adapt(model, ALL, seed=0)
    for found in (adapters.merged(model), adapters.merge(model)):
        after = {each: weight.requires_grad for each, weight in found.named_parameters()}
        assert after == before


@pytest.mark.parametrize("name", CASES)
def test_merged_is_unmerged(name: str) -> None:
    """ReLU, gated and biased experts, experts in attention, shared experts, latents, routers."""
    model = adapted(name).eval()
    with torch.no_grad():
        before, without = hidden(model), hidden(plain(name).eval())
        merged = adapters.merged(model)
        close(hidden(merged), before)
        assert not torch.allclose(before, without, atol=1e-3)
        assert adapters.merge(model) is model
        assert torch.equal(hidden(model), hidden(merged))
    names = [each for each, _ in plain(name).named_parameters()]
    assert [each for each, _ in merged.named_parameters()] == names
    assert all(weight.requires_grad for weight in merged.parameters())
    assert not any(adapters.carried(merged))


@pytest.mark.parametrize("name", ["switch", "olmoe", "gpt_oss"])
def test_merged_is_unmerged_in_bfloat16(name: str) -> None:
    """Where the merged pass rounds a product once, the unmerged one rounds it, what is added, and
    the sum: three errors of one size are sqrt(3) = 1.7 times one."""
    model = adapted(name, replace(ALL, targets=("attention", "experts")), dtype=torch.bfloat16)
    exact = adapters.merged(adapted(name, replace(ALL, targets=("attention", "experts")))).eval()
    with torch.no_grad():
        expected = hidden(exact).double()
        far = {
            word: float((hidden(one.eval()).double() - expected).norm())
            for word, one in {"not": model, "merged": adapters.merged(model)}.items()
        }
    assert far["not"] <= 2 * far["merged"]


@pytest.mark.parametrize("name", ["switch", "olmoe", "gpt_oss", "deepseek", "attention"])
def test_gradients_are_those_of_the_merged_matrix(name: str) -> None:
    """By the chain rule: with G the gradient of W + s A B, that of A is s G B^T, that of B s A^T G,
    as stacks have them; of a matrix [O, I], whose product is B A, s B^T G and s G A^T."""
    model = adapted(name)
    merged = adapters.merged(model)
    upstream = torch.randn(hidden(model).shape, generator=torch.Generator().manual_seed(2))
    for one in (model, merged):
        (hidden(one) * upstream).sum().backward()
    whole = dict(merged.named_parameters())
    for each in adapters.carried(model):
        a, b, scale = each.adapter.a, each.adapter.b, each.adapter.scale
        upstream = whole[each.name].grad
        if upstream is None:  # a router of one choice that no loss reads
            continue
        if a.dim() == 3:
            of_a, of_b = scale * upstream @ b.mT, scale * a.mT @ upstream
        else:
            of_a, of_b = scale * b.mT @ upstream, scale * upstream @ a.mT
        close(a.grad, of_a, 1e-4)
        close(b.grad, of_b, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_fresh_adapters_change_no_bit(name: str, dtype: torch.dtype) -> None:
    model = plain(name, dtype=dtype)
    with torch.no_grad():
        before = hidden(model)
        adapters.adapt(model, ALL, seed=0)
        assert torch.equal(hidden(model), before)


def test_the_seed_decides() -> None:
    models = [plain("switch") for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        adapters.adapt(model, ALL, seed)
    one, again, other = (adapters.extract(model) for model in models)
    assert one.keys() == again.keys() == other.keys()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_report_names_every_matrix() -> None:
    """Experts of switch's case: 4 of 16 x 24 and 24 x 16 in the second of two blocks of each stack,
    four stacks; an adapter of rank 3 has 4 * 3 * (16 + 24) = 480 parameters."""
    model = plain("switch")
    total = sum(weight.numel() for weight in model.parameters())
    found = adapters.adapt(model, LoraConfig(3, targets=("experts",)), seed=0)
    names = [each.name for each in found.carried]
    assert names == [
        f"{stack}.blocks.1.feed_forward.moe.experts.w_{part}"
        for stack in ("encoder", "decoder")
        for part in ("in", "out")
    ]
    assert (found.trained, found.total) == (4 * 480, total)
    assert found.lines() == (
        f"rank 3 on 4 matrices: 1,920 parameters train, {1920 / total:.2%} of the {total:,} that "
        "do not",
        "encoder.blocks.1.feed_forward.moe.experts.w_in [4, 16, 24]",
        "encoder.blocks.1.feed_forward.moe.experts.w_out [4, 24, 16]",
        "decoder.blocks.1.feed_forward.moe.experts.w_in [4, 16, 24]",
        "decoder.blocks.1.feed_forward.moe.experts.w_out [4, 24, 16]",
    )
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == set(adapters.extract(model))


def test_blocks_in_a_row_are_one_line() -> None:
    config = replace(CASES["modern"], num_layers=5)
    model = build(config)
    model.init_weights(0)
    found = adapters.adapt(
        model, LoraConfig(3, targets=("*.[0124].*.query.weight", "*.3.*.out.weight")), seed=0
    )
    assert found.lines()[1:] == (
        "decoder.blocks.0-2,4.self_attention.attention.query.weight [16, 16]",
        "decoder.blocks.3.self_attention.attention.out.weight [16, 16]",
    )


@pytest.mark.parametrize(
    ("name", "word", "parts"),
    [
        ("olmoe", "attention", {"query", "key", "value", "out"}),
        ("olmoe", "ffn", {"network", "shared"}),
        ("olmoe", "experts", {"experts"}),
        ("olmoe", "router", {"router"}),
        ("attention", "experts", {"experts"}),
        ("t5", "attention", {"query", "key", "value", "out"}),
        ("deepseek", "attention", {"query_down", "query", "latent", "key_value", "out"}),
    ],
)
def test_words(name: str, word: str, parts: set[str]) -> None:
    found = adapters.targets(plain(name), (word,))
    assert {each.split(".")[-2] for each in found} == parts


def test_all_is_every_word_and_patterns_add_up() -> None:
    model = plain("olmoe")
    words = ("attention", "ffn", "experts", "router")
    assert adapters.targets(model, ("all",)) == adapters.targets(model, words)
    found = adapters.targets(model, ("router", "decoder.blocks.0.*.value.weight"))
    assert found == [
        "decoder.blocks.0.self_attention.attention.value.weight",
        "decoder.blocks.1.feed_forward.moe.router.weight",
    ]


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        (
            "t5",
            LoraConfig(2),
            r"lora.targets = 'experts': must be one of attention \(24 matrices\)",
        ),
        ("t5", LoraConfig(2, targets=("all", "gate_proj")), "no matrix of this model matches it"),
        (
            "t5",
            LoraConfig(2, targets=("*.norm.*",)),
            "encoder.blocks.0.self_attention.norm.weight ",
        ),
        ("olmoe", LoraConfig(2, targets=("head.*",)), "head.weight takes no adapter"),
        (
            "olmoe",
            LoraConfig(5, targets=("all",)),
            r"lora.rank = 5: must be at most 4, the smaller side of decoder.blocks.1.feed_forward."
            r"moe.router.weight \[4, 16\]",
        ),
        ("olmoe", LoraConfig(17, targets=("experts",)), r"must be at most 16, .* \[4, 16, 16\]"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(name: str, config: LoraConfig, said: str) -> None:
    model = plain(name)
    with pytest.raises(ConfigError, match=said) as caught:
        adapters.adapt(model, config, seed=0)
    assert "\n" not in str(caught.value)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(adapters.carried(model))


def test_adapters_are_put_there_once() -> None:
    model = adapted("switch")
    with pytest.raises(UserError, match="has adapters already"):
        adapters.adapt(model, ALL, seed=0)
    adapters.adapt(adapters.merge(model), ALL, seed=0)


@pytest.mark.parametrize("case", ["switch", "olmoe", "gpt_oss", "st_moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_gradient_of_a_frozen_matrix_is_computed(case: str, dtype: torch.dtype) -> None:
    """No product in a backward pass has the shape of a frozen matrix or of its transpose."""
    config = CASES[case]
    model = adapted(case, dtype=dtype)
    batch = batch_for(config, *LENGTHS)
    made: list[tuple[int, ...]] = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            product = func._opname in PRODUCTS
            leaves = out if isinstance(out, tuple | list) else (out,)
            made.extend(tuple(leaf.shape) for leaf in leaves if product)
            return out

    output = model(batch)
    loss = output.head.cross_entropy(output.hidden, batch.targets, batch.target_mask).total
    with Shapes():
        loss.backward()
    frozen = {name: w for name, w in model.named_parameters() if "_lora." not in name}
    sizes = {tuple(weight.shape) for weight in frozen.values() if weight.dim() >= 2}
    assert made and not (sizes | {size[::-1] for size in sizes}) & set(made)
    assert all(weight.grad is None for weight in frozen.values())
    for each in adapters.carried(model):  # one choice of a softmax over it has no gradient
        assert each.adapter.a.grad is not None or "router" in each.name, each.name


def test_recomputed_blocks_give_the_same_gradients() -> None:
    one, other = adapted("switch"), adapted("switch", recompute=True)
    for model in (one, other):
        hidden(model).sin().sum().backward()
    for (name, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["switch", "olmoe"])
def test_prepared_models_have_them_merged(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices are packed here whatever their size, where the processor can."""
    monkeypatch.setattr("turnout.nn.onednn.SMALL", 0)
    model = adapted(name, dtype=dtype).eval()
    with torch.no_grad():
        expected, ready = hidden(adapters.merged(model)), prepared(model)
        close(hidden(ready), expected, 1e-5 if dtype == torch.float32 else 0.05)
        assert any(adapters.carried(model))


def test_a_copy_has_adapters_of_its_own() -> None:
    model = adapted("switch").eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for each in adapters.carried(twin):
            each.adapter.b.zero_()
        assert not torch.equal(hidden(twin), hidden(model))


def test_a_pass_costs_the_factors_alone() -> None:
    """Experts [4, 16, 24] and [4, 24, 16] of one layer of each stack, R = 3: a row's products with
    A and B are 2 * 3 * (16 + 24) operations more for each matrix, nothing as large as a matrix."""
    config = CASES["switch"]
    batch = batch_for(config, *LENGTHS)

    def flops(model: Model) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(batch)
        return counter.get_total_flops()

    model = plain("switch")
    before = flops(model)
    adapters.adapt(model, LoraConfig(3, targets=("experts",)), seed=0)
    slots = sum(stream.ids.numel() for stream in (batch.encoder, batch.decoder))
    assert flops(model) - before == slots * 2 * (2 * 3 * (16 + 24))
