"""Attention with dropout against the same written out with what was dropped: values, gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.nn.rounding import assert_rounded
from turnout.nn import dropped_attention
from turnout.nn.dropped_attention import Draws

# Rows, heads, heads of keys, queries, keys, width, width of values.
SHAPES = {
    "square": (3, 2, 2, 8, 8, 4, 4),
    "more keys, an odd number": (2, 3, 3, 5, 9, 4, 4),
    "heads that share keys": (2, 4, 2, 6, 6, 4, 4),
    "narrow values": (2, 2, 2, 6, 6, 8, 3),
    "one query": (1, 2, 2, 1, 7, 8, 8),
    "one of each": (1, 1, 1, 1, 1, 16, 16),
    "wide": (2, 2, 2, 130, 130, 64, 64),
}
DROPOUT, SCALE = 0.25, 0.3


def problem(shape, dtype, mask):
    rows, heads, groups, queries, keys, width, wide = shape
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes):
        return torch.randn(*sizes, generator=generator).to(dtype).requires_grad_()

    leaves = [
        drawn(rows, heads, queries, width),
        drawn(rows, groups, keys, width),
        drawn(rows, groups, keys, wide),
    ]
    hidden = torch.rand(rows, 1, queries, keys, generator=generator) < 0.4
    if mask == "bias":
        bias = 3 * torch.randn(rows, heads, queries, keys, generator=generator)
        leaves.append(bias.masked_fill(hidden, -torch.inf).to(dtype).requires_grad_())
    else:
        leaves.append(~hidden)
    upstream = torch.randn(rows, heads, queries, wide, generator=generator)
    return leaves, upstream.to(dtype)


def factors(seed, *shape):
    """Those of the next call after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    drawn = torch.randint(dropped_attention.SEEDS, ())
    return Draws(drawn, round(DROPOUT * 65536)).factors(*shape)


def written_out(query, key, value, mask, kept):
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    logits = query @ key.transpose(-1, -2) * SCALE
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    p = logits.softmax(-1).nan_to_num()  # where a query may read nothing
    return (p * kept.to(p.dtype)) @ value


def assert_as_written_out(leaves, upstream, kept):
    """Values and gradients, where ``kept`` are the factors behind ``torch.manual_seed(7)``."""
    torch.manual_seed(7)
    found = dropped_attention.attention(*leaves, DROPOUT, SCALE)
    exact = [
        leaf.detach().double().requires_grad_() if leaf.requires_grad else leaf for leaf in leaves
    ]
    expected = written_out(*exact, kept)
    wanted, sources = ([leaf for leaf in some if leaf.requires_grad] for some in (leaves, exact))
    gradients = torch.autograd.grad(expected, sources, upstream.double())
    assert_rounded(
        (found, *torch.autograd.grad(found, wanted, upstream)),
        (expected, *(each.nan_to_num() for each in gradients)),
        leaves[0].dtype,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", ["bool", "bias"])
@pytest.mark.parametrize("part", [1, 200, 1 << 20])
def test_values_and_gradients(shape, dtype, mask, part, monkeypatch):
    monkeypatch.setattr(dropped_attention, "PART", part)  # a head at a time, a row, or all
    leaves, upstream = problem(shape, dtype, mask)
    rows, heads, _, queries, keys, *_ = shape
    kept = factors(7, rows, heads, queries, keys)
    assert_as_written_out(leaves, upstream, kept)


def packed(rows, queries, longest):
    """What may be read where short examples stand behind each other, a query the keys before it."""
    generator = torch.Generator().manual_seed(1)
    starts = torch.rand(rows, queries, generator=generator) < 2 / longest
    segment = starts.cumsum(1)
    alike = segment[:, None, :, None] == segment[:, None, None, :]
    return alike & torch.ones(queries, queries, dtype=torch.bool).tril()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", ["bool", "bias"])
@pytest.mark.parametrize("part", [1, 1 << 16, 1 << 20])
def test_spans_leave_nothing_out(dtype, mask, part, monkeypatch):
    """Of examples in a row, one row without any, and one whose last query reads the first key."""
    monkeypatch.setattr(dropped_attention, "PART", part)
    leaves, upstream = problem((3, 2, 2, 200, 200, 8, 8), dtype, "bool")
    read = packed(3, 200, 20)
    read[1], read[2, :, -1, 0] = False, True
    spans = list(dropped_attention._spans(read))
    assert len(spans) == 3 * 4
    assert sum((k.stop - k.start) * 64 for _, _, k in spans) < 0.75 * 3 * 200 * 200
    leaves[3] = read
    if mask == "bias":
        bias = torch.randn(3, 2, 200, 200, generator=torch.Generator().manual_seed(2))
        leaves[3] = bias.masked_fill(~read, -torch.inf).to(dtype).requires_grad_()
    kept = factors(7, 3, 2, 200, 200)
    assert_as_written_out(leaves, upstream, kept)


def test_nan_in_a_bias_is_no_key_that_is_left_out():
    leaves, _ = problem((1, 1, 1, 200, 200, 4, 4), torch.float32, "bool")
    bias = torch.zeros(1, 1, 200, 200).masked_fill(~packed(1, 200, 20), -torch.inf)
    assert dropped_attention.attention(*leaves[:3], bias, DROPOUT, SCALE).isfinite().all()
    bias[0, 0, 150, 3] = torch.nan
    found = dropped_attention.attention(*leaves[:3], bias, DROPOUT, SCALE)
    assert found[0, 0, 150].isnan().all() and found[0, 0, :150].isfinite().all()


def test_probabilities_are_dropped_at_their_rate_and_the_rest_grow():
    shape = (4, 8, 100, 101)
    kept = factors(1, *shape)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / (1 - DROPOUT))]
    # 323,200 draws at 1/4: a standard deviation of 0.00076; of every row 0.0015, of every lane too.
    dropped = (kept == 0).float()
    assert float(dropped.mean()) == pytest.approx(DROPOUT, abs=0.004)
    lanes = dropped.flatten(1)[:, :80800].view(4, -1, 4)
    for part in (*dropped.flatten(1).mean(1), *lanes.mean((0, 1))):
        assert float(part) == pytest.approx(DROPOUT, abs=0.008)
    again, other = factors(1, *shape), factors(2, *shape)
    assert torch.equal(again, kept)
    assert not torch.equal(other, kept)
    # Alike as often as two fair draws are: (3/4)^2 + (1/4)^2.
    assert float((other == kept).float().mean()) == pytest.approx(0.625, abs=0.004)


@pytest.mark.parametrize("dropped", [0, 1, 65535])
def test_the_mean_stays_whatever_is_dropped(dropped):
    factor = Draws(torch.tensor(3), dropped)._factor
    assert factor == pytest.approx(65536 / (65536 - dropped))


def test_by_hand(monkeypatch):
    # Logits 0 and 0: halves of values 4 and 8. The first is dropped, the other doubled: 8. With an
    # upstream of 1 the gradients of the values are 0 and 1; with p = 1/2, dp = (0, 16) and their
    # mean under p = 8, those of the logits are 1/2 (0 - 8) and 1/2 (16 - 8).
    monkeypatch.setattr(
        Draws, "factors", lambda self, *shape: torch.tensor([0.0, 2.0]).expand(shape)
    )
    query, key = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 2, 1)
    value = torch.tensor([4.0, 8.0]).view(1, 1, 2, 1).requires_grad_()
    bias = torch.zeros(1, 1, 1, 2, requires_grad=True)
    out = dropped_attention.attention(query, key, value, bias, 0.5, 1.0)
    assert out.item() == 8.0
    out.sum().backward()
    assert value.grad.flatten().tolist() == [0.0, 1.0]
    assert bias.grad.flatten().tolist() == [-4.0, 4.0]


def test_a_query_that_may_read_nothing_gets_zeros_and_gives_none():
    (query, key, value, mask), upstream = problem(SHAPES["square"], torch.float32, "bool")
    mask[1] = False
    found = dropped_attention.attention(query, key, value, mask, DROPOUT, SCALE)
    assert float(found[1].detach().abs().max()) == 0
    for gradient in torch.autograd.grad(found, (query, key, value), upstream):
        assert bool(gradient.isfinite().all()) and float(gradient[1].abs().max()) == 0


def test_no_rows_at_all():
    leaves, upstream = problem((0, 2, 2, 3, 3, 4, 4), torch.bfloat16, "bias")
    found = dropped_attention.attention(*leaves, DROPOUT, SCALE)
    gradients = torch.autograd.grad(found, leaves, upstream)
    assert [g.shape for g in (found, *gradients)] == [u.shape for u in (upstream, *leaves)]


def test_its_mean_is_what_nothing_dropped_gives():
    (query, key, value, mask), _ = problem(SHAPES["square"], torch.float32, "bool")
    mask[..., 0] = True
    with torch.no_grad():
        draws = [
            dropped_attention.attention(query, key, value, mask, DROPOUT, SCALE)
            for _ in range(2000)
        ]
        whole = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE)
    spread = torch.stack(draws).std(0) / 2000**0.5
    apart = (torch.stack(draws).mean(0) - whole).abs()
    assert bool((apart <= 5 * spread + 1e-6).all())


def test_what_it_takes():
    query = torch.zeros(1, 1, 1, 1)
    assert dropped_attention.takes(query, 0.1)
    assert dropped_attention.takes(query.bfloat16(), 0.1)
    assert not dropped_attention.takes(query, 0.0)
    assert not dropped_attention.takes(query.half(), 0.1)
    assert not dropped_attention.takes(query.to("meta"), 0.1)


@pytest.mark.parametrize("mask", ["bool", "bias"])
def test_it_keeps_torch_library_s_rules(mask):
    leaves, _ = problem(SHAPES["more keys, an odd number"], torch.float32, mask)
    arguments = (*leaves, torch.tensor(5), 1000, 0.5)
    torch.library.opcheck(torch.ops.turnout.dropped_attention.default, arguments)


def test_its_arithmetic_is_counted():
    leaves, _ = problem(SHAPES["narrow values"], torch.bfloat16, "bool")
    with FlopCounterMode(display=False) as counter:
        dropped_attention.attention(*leaves, DROPOUT, 1.0).sum().backward()
    # 2 x 2 heads of 6 x 6 pairs: forward a product of width 8 and one of 3; backward the logits
    # again, the gradients of queries and keys, of width 8; of probabilities and values, of 3.
    assert counter.get_total_flops() == 2 * (2 * 2 * 6 * 6) * (8 + 3 + 3 * 8 + 2 * 3)
