"""Router logits without a float32 copy of the hidden states, against the plain way."""

import pytest
import torch

from turnout.moe import parts
from turnout.moe.routers.masked_product import masked_product
from turnout.moe.routers.scores import linear_float32, without_padding


def case(dtype: torch.dtype, tokens: int = 23) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 8, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(5, 8, generator=generator).requires_grad_()
    mask = torch.rand(tokens, generator=generator) < 0.7
    return x, mask, weight, torch.randn(tokens, 5, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 23])
def test_it_is_the_plain_way(
    dtype: torch.dtype, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART", 3 * 8)  # parts of three rows, the last one shorter
    x, mask, weight, upstream = case(dtype, tokens)
    found = masked_product(x, mask, weight)
    expected = linear_float32(without_padding(x, mask), weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found, (x, weight), upstream)
    wanted = torch.autograd.grad(expected, (x, weight), upstream)
    for one, other in zip(gradients, wanted, strict=True):
        assert one.dtype == other.dtype
        bound = 1e-5 if one.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


def test_padding_may_hold_anything() -> None:
    x, mask, weight, upstream = case(torch.float32)
    wild = torch.where(mask.unsqueeze(1), x.detach(), torch.nan).requires_grad_()
    found = masked_product(wild, mask, weight)
    assert (found[~mask] == 0).all()
    of_x, of_weight = torch.autograd.grad(found, (wild, weight), upstream)
    assert (of_x[~mask] == 0).all() and of_weight.isfinite().all()
    assert torch.equal(found, masked_product(x, mask, weight))


def test_nothing_in_float32_is_kept_of_the_hidden_states() -> None:
    x, mask, weight, _ = case(torch.bfloat16)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        masked_product(x, mask, weight)
    assert {tensor.data_ptr() for tensor in kept} == {
        tensor.data_ptr() for tensor in (x, mask, weight)
    }


def test_autocast_does_not_reach_it() -> None:
    x, mask, weight, upstream = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_product(x, mask, weight)
        inside = torch.autograd.grad(found, weight, upstream)[0]
    assert torch.equal(found, masked_product(x, mask, weight))
    outside = torch.autograd.grad(masked_product(x, mask, weight), weight, upstream)[0]
    assert torch.equal(inside, outside)


def test_without_gradients_it_is_composed() -> None:
    x, mask, weight, _ = case(torch.float32)
    with torch.no_grad():
        found = masked_product(x, mask, weight)
    torch.testing.assert_close(found, masked_product(x, mask, weight).detach())
