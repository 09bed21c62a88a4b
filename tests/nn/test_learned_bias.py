"""Attention with a learned bias against the same written out, values and all gradients."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.nn.rounding import assert_rounded
from turnout.nn import learned_bias

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

    bias = 3 * drawn(batch, heads, queries, keys)
    if masked:
        hidden = torch.rand(bias.shape, generator=generator) < 0.4
        hidden[..., 0] = False  # some key is left to each
        bias = bias.masked_fill(hidden, -torch.inf)
    tensors = (
        drawn(batch, heads, queries, width),
        drawn(batch, heads, keys, width),
        drawn(batch, heads, keys, width),
        bias,
    )
    upstream = drawn(batch, heads, queries, width)
    return [t.to(dtype).requires_grad_() for t in tensors], upstream.to(dtype)


def written_out(query, key, value, bias, scale):
    logits = query @ key.transpose(-1, -2) * scale + bias
    return logits.softmax(-1) @ value


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", [1, 1 << 21])
def test_values_and_gradients(shape, dtype, part, monkeypatch):
    monkeypatch.setattr(learned_bias, "PART", part)  # one row of the batch at a time, or all
    leaves, upstream = problem(shape, dtype)
    assert learned_bias.takes(*leaves, 0.0) == (dtype == torch.bfloat16)
    found = learned_bias.attention(*leaves, 0.3)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = written_out(*exact, 0.3)
    assert_rounded(
        (found, *torch.autograd.grad(found, leaves, upstream)),
        (expected, *torch.autograd.grad(expected, exact, upstream.double())),
        dtype,
    )


def test_no_rows_at_all():
    leaves, upstream = problem((0, 2, 3, 3, 4), torch.bfloat16)
    found = learned_bias.attention(*leaves, 0.3)
    gradients = torch.autograd.grad(found, leaves, upstream)
    assert [g.shape for g in (found, *gradients)] == [u.shape for u in (upstream, *leaves)]


def test_a_bias_by_hand():
    # Two keys with logits 0 + ln 3 and 0: weights 3/4 and 1/4 of values 4 and 8, so 5. With an
    # upstream of 1, dS = p * (v - 5): 3/4 * -1 and 1/4 * 3.
    zero = torch.zeros(1, 1, 1, 1)
    bias = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2).requires_grad_()
    key, value = torch.zeros(1, 1, 2, 1), torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    out = learned_bias.attention(zero, key, value, bias, 1.0)
    assert out.item() == pytest.approx(5.0)
    out.sum().backward()
    torch.testing.assert_close(bias.grad.flatten(), torch.tensor([-0.75, 0.75]))


def test_what_is_hidden_is_not_read():
    leaves, upstream = problem(SHAPES["square"], torch.float32)
    found = torch.autograd.grad(learned_bias.attention(*leaves, 1.0), leaves, upstream)
    hidden = leaves[3] == -torch.inf
    assert torch.equal(found[3][hidden], torch.zeros(int(hidden.sum())))


def test_what_is_left_to_the_kernel_and_to_plain_attention():
    query, key, value, bias = leaves = problem(SHAPES["square"], torch.bfloat16)[0]
    assert learned_bias.takes(*leaves, 0.0)
    assert not learned_bias.takes(query, key, value, bias, 0.1)
    assert not learned_bias.takes(query, key[:, :1], value[:, :1], bias, 0.0)
    assert not learned_bias.takes(query, key, value, bias.detach(), 0.0)
    assert not learned_bias.takes(query.float(), key, value, bias, 0.0)
    with torch.no_grad():
        assert not learned_bias.takes(query, key, value, bias, 0.0)


def test_it_keeps_torch_library_s_rules():
    leaves, _ = problem(SHAPES["more keys"], torch.float32, masked=False)
    torch.library.opcheck(torch.ops.turnout.biased_attention.default, (*leaves, 0.5))


def test_its_arithmetic_is_counted():
    leaves, _ = problem(SHAPES["more keys"], torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        learned_bias.attention(*leaves, 1.0).sum().backward()
    # 2 x 3 heads of 5 x 9 pairs, width 4: two products forward and five backward of 2 each
    assert counter.get_total_flops() == 14 * 2 * 3 * 5 * 9 * 4
