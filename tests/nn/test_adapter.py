"""Low-rank adapters of one matrix and of stacked ones, worked by hand."""

import pytest
import torch
from torch import Tensor

from turnout.moe.adapter import StackedAdapter
from turnout.nn.adapter import Adapter
from turnout.nn.linear import Linear, MatrixAdapter


def filled(adapter: Adapter, a: list, b: list) -> Adapter:
    with torch.no_grad():
        adapter.a.copy_(torch.tensor(a))
        adapter.b.copy_(torch.tensor(b))
    return adapter


def test_one_matrix() -> None:
    """x = (1, 2); W = [[1, 0], [0, 1], [1, 1]], so that W x = (1, 2, 3); A = (1, 3), A x = 7; by
    0.5 that is 3.5, times B = (2, 0, -1): (7, 0, -3.5). Together (8, 2, -0.5)."""
    linear = Linear(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    adapter = MatrixAdapter(2, 3, 1, scale=0.5, dropout=0.0)
    linear.weight_lora = filled(adapter, [[1.0, 3.0]], [[2.0], [0.0], [-1.0]])
    found = linear(torch.tensor([[1.0, 2.0]]))
    assert found.tolist() == [[8.0, 2.0, -0.5]]
    # scale B A = 0.5 * [[2, 6], [0, 0], [-1, -3]]
    assert adapter.delta().tolist() == [[1.0, 3.0], [0.0, 0.0], [-0.5, -1.5]]


def test_stacked_matrices() -> None:
    """Rows 0 and 1 are the first expert's, none the second's, row 2 the third's, row 3 nobody's.

    First: A = (1, 1), B = (1, 2): (1, 2) -> 3 -> (6, 12) with a scale of 2; (0, 1) -> 1 -> (2, 4).
    Third: A = (0, 1), B = (-1, 0): (5, 1) -> 1 -> (-2, 0).
    """
    adapter = filled(
        StackedAdapter(3, 2, 2, 1, scale=2.0, dropout=0.0),
        [[[1.0], [1.0]], [[9.0], [9.0]], [[0.0], [1.0]]],
        [[[1.0, 2.0]], [[9.0, 9.0]], [[-1.0, 0.0]]],
    )
    rows = torch.tensor([[1.0, 2.0], [0.0, 1.0], [5.0, 1.0], [7.0, 7.0]])
    found = adapter(rows, torch.tensor([2, 2, 3], dtype=torch.int32))
    assert found.tolist() == [[6.0, 12.0], [2.0, 4.0], [-2.0, 0.0], [0.0, 0.0]]
    assert adapter.delta()[0].tolist() == [[2.0, 4.0], [2.0, 4.0]]
    assert adapter.delta()[2].tolist() == [[0.0, 0.0], [-2.0, 0.0]]


def test_an_expert_without_rows_has_a_gradient_of_zero() -> None:
    adapter = StackedAdapter(3, 8, 8, 4, scale=1.0, dropout=0.0)
    adapter.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.ones_(adapter.b)
    offsets = torch.tensor([2, 2, 5], dtype=torch.int32)
    adapter(torch.randn(6, 8), offsets).square().sum().backward()
    for grad in (adapter.a.grad, adapter.b.grad):
        assert grad is not None and bool(torch.isfinite(grad).all())
        assert [bool(one.any()) for one in grad] == [True, False, True]
    adapter.zero_grad()
    adapter(torch.randn(0, 8), torch.zeros(3, dtype=torch.int32)).sum().backward()
    assert adapter.a.grad is not None and not adapter.a.grad.any()


@pytest.mark.parametrize("stacked", [False, True])
def test_a_starts_by_its_fan_in_and_b_at_zero(stacked: bool) -> None:
    """Of 400 inputs the deviation is 1 / 20; 16,000 entries have it to a hundredth."""
    words = {"scale": 1.0, "dropout": 0.0}
    adapter: Adapter = MatrixAdapter(400, 30, 40, **words)
    if stacked:
        adapter = StackedAdapter(4, 400, 30, 10, **words)
    adapter.init_weights(torch.Generator().manual_seed(0))
    assert float(adapter.a.detach().std()) == pytest.approx(0.05, rel=0.02)
    assert not adapter.b.any()
    assert adapter.rank == (10 if stacked else 40)


def test_dropout_acts_in_training_on_what_enters_the_adapter() -> None:
    linear = Linear(64, 8)
    torch.nn.init.zeros_(linear.weight)
    linear.weight_lora = MatrixAdapter(64, 8, 2, scale=1.0, dropout=0.5)
    for part in linear.weight_lora.parameters():
        torch.nn.init.ones_(part)
    x = torch.ones(100, 64)

    def passed() -> Tensor:
        """Of 64 inputs, by two columns of ones."""
        found: Tensor = linear(x).detach()
        return found[:, 0] / 2

    assert torch.equal(linear.eval()(x), torch.full((100, 8), 128.0))
    torch.manual_seed(0)
    kept = linear.train() and passed()
    assert kept.unique().numel() > 5  # how many were kept, doubled, differs by row
    assert float(kept.mean()) == pytest.approx(64, rel=0.05)


def test_bfloat16_rows_meet_float32_factors() -> None:
    adapter = MatrixAdapter(16, 12, 3, scale=0.7, dropout=0.0)
    for part in adapter.parameters():
        torch.nn.init.normal_(part, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = adapter(x)
    assert found.dtype == torch.bfloat16
    wide = 0.7 * x.double() @ adapter.a.double().t() @ adapter.b.double().t()
    torch.testing.assert_close(found.double(), wide, rtol=0.03, atol=0.03)
