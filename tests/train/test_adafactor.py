"""Adafactor against hand numbers, and stacked experts against a list of experts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout.train.adafactor import Adafactor


def _stepped(
    param: torch.Tensor, grads: list[torch.Tensor], *, stacked: bool = False, **options: float
) -> torch.Tensor:
    leaf = torch.nn.Parameter(param.clone())
    optimizer = Adafactor([{"params": [leaf], "stacked": stacked}], **options)  # type: ignore[arg-type]
    for grad in grads:
        leaf.grad = grad.clone()
        optimizer.step()
    return leaf.detach()


def test_first_factored_step_by_hand() -> None:
    # t = 0: beta = 1 - 1^-0.8 = 0, so v is made of g^2 alone. g^2 = [[1, 4], [9, 16]].
    # Row means 2.5 and 12.5 (mean 7.5), column means 5 and 10.
    # v = row column / 7.5: [[5/3, 10/3], [25/3, 50/3]].
    # u = g / sqrt(v) = [[1/1.29099, 2/1.82574], [3/2.88675, 4/4.08248]]
    #   = [[.774597, 1.095445], [1.039230, .979796]].
    # u^2 = .6, 1.2, 1.08, .96: mean .96, RMS .979796 < 1: no clipping.
    # RMS(param) = 2, lr = .1: the step is .2 u.
    param = torch.full((2, 2), 2.0)
    grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    update = torch.tensor([[0.774597, 1.095445], [1.039230, 0.979796]])
    new = _stepped(param, [grad], lr=0.1, min_factored=2)
    torch.testing.assert_close(new, param - 0.2 * update, atol=1e-5, rtol=0)


def test_second_step_by_hand_on_a_vector() -> None:
    # First step: v = g^2 = [1, 4], u = [1, 1], RMS 1, RMS(param) = 1, lr = .5: param 1 -> .5.
    # Second: beta = 1 - 2^-0.8 = 1 - .574349 = .425651; g = [2, 2], g^2 = [4, 4].
    # v = .425651 [1, 4] + .574349 [4, 4] = [2.723047, 4].
    # u = 2 / sqrt(v) = [1.211998, 1]; RMS = sqrt((1.468940 + 1) / 2) = 1.111067 > 1:
    # u <- u / 1.111067 = [1.090841, .900036]. RMS(param) = .5: step .5 * .5 = .25 u.
    # param = .5 - [.272710, .225009] = [.227290, .274991].
    new = _stepped(torch.ones(2), [torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])], lr=0.5)
    torch.testing.assert_close(new, torch.tensor([0.227290, 0.274991]), atol=1e-5, rtol=0)


def test_a_zero_parameter_moves_by_epsilon2() -> None:
    # RMS(param) = 0 -> epsilon2 = 1e-3; u = sign(g) has RMS 1: the step is lr * 1e-3.
    new = _stepped(torch.zeros(3), [torch.tensor([5.0, -7.0, 0.1])], lr=1.0)
    torch.testing.assert_close(new, torch.tensor([-1e-3, 1e-3, -1e-3]), atol=1e-8, rtol=0)


def test_a_zero_gradient_moves_nothing_and_stays_finite() -> None:
    assert torch.equal(
        _stepped(torch.ones(4, 4), [torch.zeros(4, 4)], min_factored=2), torch.ones(4, 4)
    )


@settings(max_examples=25, deadline=None)
@given(
    experts=st.integers(1, 5),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    scale=st.floats(0.01, 100.0),
    seed=st.integers(0, 10_000),
)
def test_stacked_matrices_equal_a_list(
    experts: int, rows: int, columns: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    stack = torch.randn(experts, rows, columns, generator=generator)
    grads = [torch.randn(experts, rows, columns, generator=generator) for _ in range(3)]
    stack[0] *= scale  # one expert of another size must not set the others' steps
    grads = [grad * torch.linspace(1.0, scale, experts).view(-1, 1, 1) for grad in grads]
    together = _stepped(stack, grads, stacked=True, lr=0.1, min_factored=3)
    for index in range(experts):
        alone = _stepped(stack[index], [grad[index] for grad in grads], lr=0.1, min_factored=3)
        torch.testing.assert_close(together[index], alone, atol=1e-7, rtol=1e-6)


def test_stacked_vectors_are_a_list_and_not_a_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 8, generator=generator) * torch.tensor([[1.0], [10.0], [0.1]])
    grads = [torch.randn(3, 8, generator=generator) for _ in range(2)]
    together = _stepped(stack, grads, stacked=True, lr=0.1, min_factored=2)
    for index in range(3):
        alone = _stepped(stack[index], [grad[index] for grad in grads], lr=0.1, min_factored=2)
        torch.testing.assert_close(together[index], alone, atol=1e-7, rtol=1e-6)
    as_matrix = _stepped(stack, grads, stacked=False, lr=0.1, min_factored=2)
    assert not torch.allclose(together, as_matrix, atol=1e-3)


def test_only_large_matrices_keep_factored_state() -> None:
    wide = torch.nn.Parameter(torch.ones(128, 129))
    narrow = torch.nn.Parameter(torch.ones(127, 300))
    optimizer = Adafactor([wide, narrow])
    for param in (wide, narrow):
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert optimizer.state[wide]["row"].shape == (128,)
    assert optimizer.state[wide]["column"].shape == (129,)
    assert "square" not in optimizer.state[wide]
    assert optimizer.state[narrow]["square"].shape == (127, 300)


def test_scalars_have_a_scale_of_their_own() -> None:
    # A 0-dim parameter 4 with gradient 3: u = 1, RMS(param) = 4, lr .25: 4 - 1 = 3.
    new = _stepped(torch.tensor(4.0), [torch.tensor(3.0)], lr=0.25)
    assert new.item() == pytest.approx(3.0)
    assert math.isfinite(new.item())
