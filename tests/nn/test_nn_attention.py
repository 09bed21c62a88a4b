"""Attention against a plain loop in float64, and masks by hand."""

import math

import pytest
import torch
from torch import Tensor

from turnout.config.attention import AttentionConfig
from turnout.nn.attention import Attention, KeyValues, Slots, attention_mask
from turnout.nn.biased import Biased
from turnout.nn.positions import RotaryAngles

WIDTH = 12


def make(config: AttentionConfig) -> Attention:
    attention = Attention(WIDTH, config, epsilon=1e-6, dropout=0.0)
    attention.init_weights(torch.Generator().manual_seed(1))
    for linear in (attention.query, attention.key, attention.value, attention.out):
        if linear.bias is not None:
            torch.nn.init.normal_(linear.bias, generator=torch.Generator().manual_seed(7))
    if attention.sinks is not None:
        torch.nn.init.normal_(attention.sinks, generator=torch.Generator().manual_seed(8))
    for norm in (attention.query_norm, attention.key_norm):
        if norm is not None:
            torch.nn.init.uniform_(
                norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(2)
            )
    return attention


@torch.no_grad()
def loop(
    attention: Attention, x: Tensor, source: Tensor, allowed: Tensor, bias: Tensor | None
) -> Tensor:
    """Token by token, head by head, in float64; queries with nothing to read are left out."""
    config = attention.config
    x, source = x.double(), source.double()

    def product(linear: torch.nn.Module, states: Tensor) -> Tensor:
        out = states @ linear.weight.double().t()
        return out if linear.bias is None else out + linear.bias.double()

    def heads(linear: torch.nn.Module, states: Tensor, norm: torch.nn.Module | None) -> Tensor:
        flat = product(linear, states)
        if norm is not None and config.qk_norm == "full":
            flat = rms(flat, norm.weight)
        split = flat.view(*flat.shape[:-1], -1, config.head_dim)
        if norm is not None and config.qk_norm == "head":
            split = rms(split, norm.weight)
        return split

    def rms(states: Tensor, weight: Tensor) -> Tensor:
        return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()

    q = heads(attention.query, x, attention.query_norm)
    k = heads(attention.key, source, attention.key_norm)
    v = heads(attention.value, source, None)
    out = torch.zeros(*x.shape[:2], config.num_heads, config.head_dim, dtype=torch.float64)
    share = config.num_heads // config.kv_heads
    for b in range(x.shape[0]):
        for h in range(config.num_heads):
            for i in range(x.shape[1]):
                keys = [j for j in range(source.shape[1]) if allowed[b, i, j]]
                logits = []
                for j in keys:
                    logit = float(q[b, i, h] @ k[b, j, h // share])
                    logit *= config.head_dim**-0.5 if config.scaled else 1.0
                    logits.append(logit + (0.0 if bias is None else float(bias[0, h, i, j])))
                weights = [math.exp(logit) for logit in logits]
                sink = 0.0 if attention.sinks is None else math.exp(attention.sinks[h])
                for j, weight in zip(keys, weights, strict=True):
                    out[b, i, h] += weight / (sum(weights) + sink) * v[b, j, h // share]
    return product(attention.out, out.flatten(2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(4, 3, scaled=False),
        AttentionConfig(4, 4, num_kv_heads=2, qk_norm="head"),
        AttentionConfig(6, 4, num_kv_heads=1, qk_norm="full"),
        AttentionConfig(4, 4, num_kv_heads=2, bias="qkv"),
        AttentionConfig(4, 4, qk_norm="full", bias="all"),
        AttentionConfig(4, 4, num_kv_heads=2, sinks=True),
    ],
    ids=["t5", "grouped", "one_kv_head", "qkv_bias", "all_biases", "sinks"],
)
def test_attention_is_the_plain_loop(
    config: AttentionConfig, with_bias: bool, causal: bool
) -> None:
    attention = make(config)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 7, WIDTH, generator=generator)
    # Two documents and a padded end; one document with padding on both sides.
    segment = torch.tensor([[1, 1, 1, 2, 2, 2, 0], [0, 1, 1, 1, 1, 0, 0]])
    mask = segment > 0
    bias = torch.randn(1, config.num_heads, 7, 7, generator=generator) if with_bias else None
    allowed = attention_mask(segment, segment, mask, causal=causal)
    merged = allowed if bias is None else Biased(bias, allowed).merged(x.dtype)
    got = attention(x, attention.project(x), merged)
    real = [
        [
            [
                bool(segment[b, i] == segment[b, j] and segment[b, j] > 0)
                and (j <= i or not causal)
                for j in range(7)
            ]
            for i in range(7)
        ]
        for b in range(2)
    ]
    expected = loop(attention, x, x, torch.tensor(real), bias)
    torch.testing.assert_close(got[mask].double(), expected[mask], atol=1e-6, rtol=1e-5)


def test_cross_attention_is_the_plain_loop() -> None:
    attention = make(AttentionConfig(4, 3, scaled=False))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 3, WIDTH, generator=generator)
    states = torch.randn(1, 5, WIDTH, generator=generator)
    query_segment, key_segment = torch.tensor([[1, 1, 2]]), torch.tensor([[1, 2, 2, 2, 0]])
    allowed = attention_mask(query_segment, key_segment, key_segment > 0, causal=False)
    by_hand = [[[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 0]]]
    assert allowed[:, 0].long().tolist() == by_hand
    got = attention(x, attention.project(states), allowed)
    expected = loop(attention, x, states, torch.tensor(by_hand), None)
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-5)


def test_causal_mask_of_packed_documents_by_hand() -> None:
    segment = torch.tensor([[1, 1, 2, 2, 0]])
    allowed = attention_mask(segment, segment, segment > 0, causal=True)
    assert allowed[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1],  # padding reads anything: nobody reads it, and its softmax is not empty
    ]


def test_visible_prefixes_of_packed_documents_by_hand() -> None:
    segment = torch.tensor([[1, 1, 1, 2, 2, 0]])
    visible = torch.tensor([[True, True, False, False, False, False]])
    allowed = attention_mask(segment, segment, segment > 0, causal=True, visible=visible)
    assert allowed[0, 0].long().tolist() == [
        [1, 1, 0, 0, 0, 0],  # the first token reads the second, which is in the prefix
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],  # the other document has no prefix, and does not read this one's
        [0, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


def test_mask_of_queries_behind_a_cache() -> None:
    known = torch.tensor([[False, True, True, True, True]])
    allowed = attention_mask(torch.tensor([[1, 1]]), known.long(), known, causal=True, start=3)
    # Queries stand in slots 3 and 4; slot 0 is padding.
    assert allowed[0, 0].long().tolist() == [[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]


def test_windows_of_packed_documents_by_hand() -> None:
    segment = torch.tensor([[0, 1, 1, 1, 1, 2, 2]])
    allowed = attention_mask(segment, segment, segment > 0, causal=True, window=2)
    assert allowed[0, 0].long().tolist() == [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],  # the third token reads itself and one before
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],  # the window ends with the document
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_window_behind_a_cache_and_of_a_visible_prefix() -> None:
    known = torch.tensor([[False, True, True, True, True]])
    one = torch.tensor([[1, 1]])
    allowed = attention_mask(one, known.long(), known, causal=True, start=3, window=3)
    # Queries stand in slots 3 and 4.
    assert allowed[0, 0].long().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    ones = torch.ones(1, 4, dtype=torch.long)
    visible = torch.tensor([[True, True, True, False]])
    allowed = attention_mask(ones, ones, ones > 0, causal=True, visible=visible, window=2)
    assert allowed[0, 0].long().tolist() == [
        [1, 1, 0, 0],  # of the prefix before it, the first token reads no further than it may back
        [1, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_row_of_padding_alone_is_finite_and_gets_no_gradient(with_bias: bool) -> None:
    attention = make(AttentionConfig(4, 3))
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(5), requires_grad=True)
    mask = torch.tensor([[False] * 5, [True] * 4 + [False]])
    allowed = attention_mask(mask.long(), mask.long(), mask, causal=True)
    bias = torch.zeros(1, 4, 5, 5, requires_grad=True)
    merged = Biased(bias, allowed).merged(x.dtype) if with_bias else allowed
    y = attention(x, attention.project(x), merged)
    assert torch.isfinite(y).all()
    torch.where(mask.unsqueeze(-1), y, 0.0).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[~mask], torch.zeros_like(x.grad[~mask]))
    assert x.grad[mask].abs().sum() > 0
    for parameter in attention.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert not with_bias or (bias.grad is not None and torch.isfinite(bias.grad).all())


def test_slots_hold_what_was_written() -> None:
    slots = Slots(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2), used=1)
    read = slots.extend(KeyValues(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)))
    assert read.keys[0, 0, :, 0].tolist() == [0, 1, 1]
    assert read.values[0, 0, :, 0].tolist() == [0, 2, 2]


def test_rotated_attention_ignores_a_common_shift() -> None:
    attention = make(AttentionConfig(4, 4))
    x = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(6))
    mask = attention_mask(
        *[torch.ones(1, 6, dtype=torch.long)] * 2, torch.ones(1, 6) > 0, causal=True
    )
    outputs = []
    for shift in (0, 11):
        rotation = RotaryAngles(10_000.0, 4).at(torch.arange(6).unsqueeze(0) + shift)
        outputs.append(attention(x, attention.project(x, rotation), mask, rotation))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_initial_deviations(scaled: bool) -> None:
    # width 256, 8 heads of 64: inputs of q, k, v 256, of o 512.
    attention = Attention(256, AttentionConfig(8, 64, scaled=scaled), epsilon=1e-6, dropout=0.0)
    attention.init_weights(torch.Generator().manual_seed(0))
    expected = {
        "query": 256**-0.5 if scaled else (256 * 64) ** -0.5,
        "key": 256**-0.5,
        "value": 256**-0.5,
        "out": 512**-0.5,
    }
    for name, std in expected.items():
        weight = getattr(attention, name).weight
        # 131,072 draws: the deviation of the measured deviation is about 0.2%.
        assert weight.std().item() == pytest.approx(std, rel=0.01), name
        assert weight.abs().max().item() <= 2 * std / 0.8796 + 1e-6


@pytest.mark.parametrize(("bias", "held"), [("none", ""), ("qkv", "query key value"), ("all", "*")])
def test_biases_start_at_zero(bias: str, held: str) -> None:
    attention = Attention(WIDTH, AttentionConfig(2, 4, bias=bias), epsilon=1e-6, dropout=0.0)
    attention.init_weights(torch.Generator().manual_seed(0))
    found = {n: p for n, p in attention.named_parameters() if n.endswith("bias")}
    names = ["query", "key", "value", "out"] if held == "*" else held.split()
    assert sorted(found) == sorted(f"{name}.bias" for name in names)
    assert all(torch.equal(p, torch.zeros_like(p)) for p in found.values())


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("with_bias", ["", "merged", "apart"])
def test_sinks_are_one_more_column_of_the_softmax(with_bias: str, heads: int) -> None:
    """Outputs and gradients of the form with a key of zeros against the softmax written out."""
    config = AttentionConfig(4, 3, num_kv_heads=heads, sinks=True)
    attention = make(config)
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(2, 6, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(2, 6, WIDTH, generator=generator)
    bias = torch.randn(1, 4, 6, 6, generator=generator, requires_grad=True)
    segment = torch.tensor([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1]])
    allowed = attention_mask(segment, segment, segment > 0, causal=True, window=2)
    apart = Biased(bias, allowed)
    mask = {"": allowed, "merged": apart.merged(x.dtype), "apart": apart}[with_bias]
    wanted = [x, *attention.parameters(), *([bias] if with_bias else [])]

    def plain() -> Tensor:
        queries, keys, values = (
            linear(x).view(2, 6, own, 3).transpose(1, 2).repeat_interleave(4 // own, 1)
            for linear, own in (
                (attention.query, 4),
                (attention.key, heads),
                (attention.value, heads),
            )
        )
        logits = queries @ keys.transpose(2, 3) * 3**-0.5 + (bias if with_bias else 0.0)
        logits = logits.masked_fill(~allowed, -torch.inf)
        sinks = attention.sinks.view(1, 4, 1, 1).expand(2, 4, 6, 1)
        shares = torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]
        return attention.out((shares @ values).transpose(1, 2).flatten(2))

    got, expected = attention(x, attention.project(x), mask), plain()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    found, plainly = (torch.autograd.grad((y * weight).sum(), wanted) for y in (got, expected))
    assert found[1 + list(attention.parameters()).index(attention.sinks)].abs().min() > 0
    for one, other in zip(found, plainly, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_sink_takes_what_a_head_leaves() -> None:
    attention = make(AttentionConfig(2, 4, sinks=True))
    x = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    read = attention.project(x)
    with torch.no_grad():
        attention.sinks.fill_(-torch.inf)  # of no weight: as if there were none
        without = Attention(WIDTH, AttentionConfig(2, 4), epsilon=1e-6, dropout=0.0)
        without.load_state_dict({n: p for n, p in attention.state_dict().items() if n != "sinks"})
        torch.testing.assert_close(attention(x, read, mask), without(x, read, mask))
        attention.sinks.fill_(80.0)  # all of it
        torch.testing.assert_close(attention(x, read, mask), torch.zeros_like(x))
