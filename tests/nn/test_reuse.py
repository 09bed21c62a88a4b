"""Memory that the next tensor as large takes over."""

import gc

import pytest
import torch

from turnout.moe.products import grouped_product
from turnout.nn import reuse
from turnout.nn.reuse import Pool

SIZE = 64 * 4  # bytes of 8 x 8 numbers in float32


def test_the_next_one_as_large_has_the_same_memory() -> None:
    pool = Pool(least=SIZE)
    first = pool.empty((8, 8), torch.float32).fill_(3)
    where = first.data_ptr()
    other = pool.empty((8, 8), torch.float32)
    assert other.data_ptr() != where and pool.free == 0
    del first
    assert pool.free == SIZE
    again = pool.empty((4, 32), torch.bfloat16)  # 4 x 32 x 2 bytes
    assert again.data_ptr() == where and again.shape == (4, 32) and pool.free == 0


def test_a_view_keeps_it() -> None:
    pool = Pool(least=SIZE)
    whole = pool.empty((8, 8), torch.float32)
    part = whole[2:3].t()
    del whole
    assert pool.free == 0
    del part
    assert pool.free == SIZE


def test_what_is_free_can_be_given_back() -> None:
    pool = Pool(least=SIZE)
    held = pool.empty((8, 8), torch.float32).fill_(1)
    pool.empty((8, 8), torch.float32)
    assert pool.free == SIZE
    pool.clear()
    assert pool.free == 0 and bool((held == 1).all())


def test_small_ones_are_the_c_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(least=SIZE + 1)
    pool.empty((8, 8), torch.float32)
    assert pool.free == 0
    monkeypatch.setattr(reuse, "AVAILABLE", False)
    Pool(least=1).empty((8, 8), torch.float32)
    assert pool.empty((0, 8), torch.float32).shape == (0, 8)


def test_gradients_of_experts_find_the_memory_of_the_step_before() -> None:
    # 4 x 1,024 x 1,024 x 4 bytes = 16 MiB
    weight = torch.zeros(4, 1024, 1024, requires_grad=True)
    rows, offsets = torch.ones(4, 1024), torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    seen = []
    for step in range(3):
        weight.grad = None
        (grouped_product(rows, weight, offsets).sum() * step).backward()
        assert weight.grad is not None and bool((weight.grad == step).all())
        seen.append(weight.grad.data_ptr())
        gc.collect()
    assert len(set(seen)) == 1


def test_a_gradient_that_is_kept_is_not_given_out_again() -> None:
    weight = torch.zeros(4, 1024, 1024, requires_grad=True)
    rows, offsets = torch.ones(4, 1024), torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    grouped_product(rows, weight, offsets).sum().backward()
    kept, weight.grad = weight.grad, None
    (2 * grouped_product(rows, weight, offsets).sum()).backward()
    assert kept is not None and bool((kept == 1).all())
    grouped_product(rows, weight, offsets).sum().backward()  # adds to what is there
    assert weight.grad is not None and bool((weight.grad == 3).all())
