"""Attention with a learned bias against the same written out, values and all gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tests.nn.rounding import assert_rounded
from turnout.nn import learned_bias
from turnout.nn.biased import Biased

SHAPES = {
    "square": (3, 2, 8, 8, 4),
    "more keys": (2, 3, 5, 9, 4),
    "one query": (1, 2, 1, 7, 8),
    "one of each": (1, 1, 1, 1, 16),
    "wide enough for the other library": (2, 2, 200, 200, 64),
}


def problem(shape, dtype, *, masked=True):
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes):
        return torch.randn(*sizes, generator=generator)

    tensors = (
        drawn(batch, heads, queries, width),
        drawn(batch, heads, keys, width),
        drawn(batch, heads, keys, width),
        3 * drawn(1, heads, queries, keys),
    )
    allowed = torch.ones(batch, 1, queries, keys, dtype=torch.bool)
    if masked:
        allowed = torch.rand(allowed.shape, generator=generator) < 0.6
        allowed[..., 0] = True  # some key is left to each
        allowed[:1] = True  # nothing is hidden from one row
    upstream = drawn(batch, heads, queries, width)
    return [t.to(dtype).requires_grad_() for t in tensors], allowed, upstream.to(dtype)


def attend(query, key, value, bias, allowed, scale):
    return learned_bias.attention(query, key, value, Biased(bias, allowed), scale)


def written_out(query, key, value, bias, allowed, scale):
    logits = query @ key.transpose(-1, -2) * scale + bias
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


def takes(query, key, value, bias, allowed, dropout):
    return learned_bias.takes(query, key, value, Biased(bias, allowed), dropout)


def assert_written_out(problem, dtype, scale):
    leaves, allowed, upstream = problem
    found = attend(*leaves, allowed, scale)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = written_out(*exact, allowed, scale)
    assert_rounded(
        (found, *torch.autograd.grad(found, leaves, upstream)),
        (expected, *torch.autograd.grad(expected, exact, upstream.double())),
        dtype,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", [1, 130, 1 << 21])
def test_values_and_gradients(shape, dtype, part, monkeypatch):
    monkeypatch.setattr(learned_bias, "PART", part)  # a head, some heads or rows, or all at once
    assert_written_out(problem(shape, dtype), dtype, 0.3)


@given(
    shape=st.tuples(*(st.integers(1, 5) for _ in range(5))),
    part=st.integers(1, 200),
    masked=st.booleans(),
)
def test_any_shape_in_any_parts(shape, part, masked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_bias, "PART", part)
        assert_written_out(problem(shape, torch.float32, masked=masked), torch.float32, 0.7)


def test_the_bias_of_all_rows_is_float32_beside_queries_of_half_precision():
    (*others, bias), allowed, upstream = problem(SHAPES["square"], torch.bfloat16)
    wide = bias.detach().float().requires_grad_()
    found = torch.autograd.grad(attend(*others, wide, allowed, 1.0), wide, upstream)[0]
    assert found.dtype == torch.float32
    apart = sum(
        torch.autograd.grad(
            attend(*(t[row] for t in others), wide, allowed[row], 1.0), wide, upstream[row]
        )[0]
        for row in (slice(0, 1), slice(1, 2), slice(2, 3))
    )
    torch.testing.assert_close(found, apart)


def test_no_rows_at_all():
    leaves, allowed, upstream = problem((0, 2, 3, 3, 4), torch.bfloat16)
    found = attend(*leaves, allowed, 0.3)
    gradients = torch.autograd.grad(found, leaves, upstream)
    assert [g.shape for g in (found, *gradients)] == [u.shape for u in (upstream, *leaves)]


def test_a_bias_by_hand():
    # Two keys with logits 0 + ln 3 and 0: weights 3/4 and 1/4 of values 4 and 8, so 5. With an
    # upstream of 1, dS = p * (v - 5): 3/4 * -1 and 1/4 * 3.
    zero = torch.zeros(1, 1, 1, 1)
    bias = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2).requires_grad_()
    key, value = torch.zeros(1, 1, 2, 1), torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    out = attend(zero, key, value, bias, torch.ones(1, 1, 1, 2).bool(), 1.0)
    assert out.item() == pytest.approx(5.0)
    out.sum().backward()
    torch.testing.assert_close(bias.grad.flatten(), torch.tensor([-0.75, 0.75]))


def test_what_is_hidden_is_not_read():
    leaves, allowed, upstream = problem((1, 2, 8, 8, 4), torch.float32)
    allowed[0, 0, :, 5:] = False
    found = torch.autograd.grad(attend(*leaves, allowed, 1.0), leaves, upstream)
    for gradient in (found[1][:, :, 5:], found[2][:, :, 5:], found[3][..., 5:]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_left_to_the_kernel_and_to_plain_attention(dtype):
    (query, key, value, bias), allowed, _ = problem(SHAPES["square"], dtype)
    assert takes(query, key, value, bias, allowed, 0.0)
    assert not takes(query, key, value, bias, allowed, 0.1)
    assert not takes(query, key[:, :1], value[:, :1], bias, allowed, 0.0)
    assert not takes(query, key, value, bias.detach(), allowed, 0.0)
    assert not takes(query.double(), key, value, bias, allowed, 0.0)
    with torch.no_grad():
        assert not takes(query, key, value, bias, allowed, 0.0)


def test_it_keeps_torch_library_s_rules():
    leaves, allowed, _ = problem(SHAPES["more keys"], torch.float32)
    torch.library.opcheck(torch.ops.turnout.biased_attention.default, (*leaves, allowed, 0.5))


def test_its_arithmetic_is_counted():
    leaves, allowed, _ = problem(SHAPES["more keys"], torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        attend(*leaves, allowed, 1.0).sum().backward()
    # 2 x 3 heads of 5 x 9 pairs, width 4: two products forward and five backward of 2 each
    assert counter.get_total_flops() == 14 * 2 * 3 * 5 * 9 * 4
