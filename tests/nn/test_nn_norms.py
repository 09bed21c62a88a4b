"""Normalisation by hand, its precision, and the linear map's casts."""

import pytest
import torch

from tests.nn.rounding import assert_rounded
from turnout.nn.linear import Linear
from turnout.nn.norms import LayerNorm, RMSNorm


def test_norm_by_hand() -> None:
    norm = RMSNorm(2, epsilon=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # mean square of (3, 4) is 12.5, its root 3.5355: (3, 4) / 3.5355 * (1, 2).
    expected = torch.tensor([[3 / 12.5**0.5, 8 / 12.5**0.5]])
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), expected)


def test_layer_norm_by_hand() -> None:
    norm = LayerNorm(4, epsilon=0.75)
    norm.init_weights()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.0, 1.0, -1.0]))
    # mean of (0, 1, 2, 3) is 1.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25; with epsilon 2:
    # (-1.5, -0.5, 0.5, 1.5) / sqrt(2), times the scale, plus the bias.
    root = 2**0.5
    expected = torch.tensor([-1.5 / root, -1 / root, 1.5 / root + 1, 6 / root - 1])
    torch.testing.assert_close(norm(torch.arange(4.0)), expected)


def test_layer_norm_in_bf16_is_float32_inside_and_starts_neutral() -> None:
    norm = LayerNorm(512, epsilon=1e-5)
    norm.init_weights()
    x = 3 + torch.randn(8, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())
    wide = norm(x.float())
    torch.testing.assert_close(wide.mean(1), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(wide.var(1, correction=0), torch.ones(8), atol=1e-4, rtol=0)


def test_epsilon_stands_under_the_root() -> None:
    norm = RMSNorm(1, epsilon=3.0)
    norm.init_weights()
    # 1 / sqrt(1 + 3) = 0.5
    assert norm(torch.ones(1, 1)).item() == 0.5


def test_norm_of_a_zero_row_has_finite_gradients() -> None:
    norm = RMSNorm(4, epsilon=1e-6)
    norm.init_weights()
    x = torch.zeros(2, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("shape", [(512,), (1, 4), (3, 4), (2, 5, 3, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_a_norm_are_those_of_autograd(shape, dtype) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], epsilon=1e-3)
    weight = torch.randn(shape[-1], generator=generator)
    norm.weight = torch.nn.Parameter(weight)
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    upstream = torch.randn(shape, generator=generator).to(dtype)
    exact, scale = (t.detach().double().requires_grad_() for t in (x, weight))
    expected = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-3) * scale
    y = norm(x)
    of_x, of_weight = torch.autograd.grad(y, (x, norm.weight), upstream)
    wanted = torch.autograd.grad(expected, (exact, scale), upstream.double())
    assert_rounded((y, of_x), (expected, wanted[0]), dtype)
    assert_rounded((of_weight,), (wanted[1],), torch.float32)
    norm.weight.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(norm(x), x, upstream)[0], of_x)
    with torch.no_grad():
        assert torch.equal(norm(x), y)


def test_a_norm_keeps_no_copy_of_its_rows() -> None:
    norm = RMSNorm(64, epsilon=1e-6)
    norm.init_weights()
    kept = []
    x = torch.randn(8, 64, requires_grad=True, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm(x)
    places = {x.data_ptr(), norm.weight.data_ptr()}
    assert [tuple(t.shape) for t in kept if t.data_ptr() not in places] == [(8, 1)]


def test_norm_in_bf16_is_float32_inside() -> None:
    norm = RMSNorm(512, epsilon=1e-6)
    norm.init_weights()
    x = torch.randn(8, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


def test_linear_computes_in_the_dtype_of_its_input() -> None:
    linear = Linear(4, 3)
    torch.nn.init.ones_(linear.weight)
    assert linear.weight.dtype == torch.float32
    assert linear(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert linear(torch.ones(2, 4)).tolist() == [[4.0] * 3] * 2
