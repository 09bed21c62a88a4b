"""The kernels in C++ against float64, at sizes around every edge of their blocks."""

import ctypes
import multiprocessing
import os

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from turnout.config.errors import UserError
from turnout.kernels.grouped import GROUPED, GroupedKernels
from turnout.kernels.library import HERE
from turnout.moe.products import Choice, ProductShape, choose, grouped_linear, grouped_product

_, FLAGS = HERE
KINDS = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
]
PAST = 3  # rows behind the last offset
# Around tiles of 14 rows and 32 columns, blocks of 224, 256 and 512, words of 2.
ROWS = st.sampled_from([0, 0, 1, 2, 13, 14, 15, 28, 29, 60, 223, 224, 225, 300])
INNER = st.sampled_from([1, 2, 3, 8, 15, 17, 31, 33, 64, 130, 255, 257, 511, 513, 1025])
COLUMNS = st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 47, 64, 200, 255, 256, 257, 300, 513])


def problem(counts, inner, columns, dtypes, linear):
    generator = torch.Generator().manual_seed(sum(counts) + inner + columns)
    rows = torch.randn(sum(counts) + PAST, inner, generator=generator)
    upstream = torch.randn(sum(counts) + PAST, columns, generator=generator)
    rows[sum(counts) :] = torch.nan
    upstream[sum(counts) :] = torch.nan
    shape = (columns, inner) if linear else (inner, columns)
    weight = torch.randn(len(counts), *shape, generator=generator)
    return rows.to(dtypes[0]), weight.to(dtypes[1]), upstream.to(dtypes[0])


def expected(rows, weight, upstream, counts):
    """Outputs and both gradients in float64, expert by expert; weights in the rows' dtype."""
    x, w, g = rows.double(), weight.to(rows.dtype).double(), upstream.double()
    out, back, grad = x.new_zeros(g.shape), torch.zeros_like(x), torch.zeros_like(w)
    start = 0
    for expert, count in enumerate(counts):
        part = slice(start, start + count)
        out[part], back[part] = x[part] @ w[expert], g[part] @ w[expert].t()
        grad[expert] = x[part].t() @ g[part]
        start += count
    return out, back, grad


@pytest.mark.parametrize("dtypes", KINDS, ids=str)
@settings(max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=5), INNER, COLUMNS, st.booleans())
@example([0, 13, 29, 28], 257, 47, False)  # an expert without rows first
@example([500], 1025, 513, True)  # more than one block of everything
def test_products_and_gradients(dtypes, counts, inner, columns, linear):
    rows, weight, upstream = problem(counts, inner, columns, dtypes, linear)
    leaves = rows.requires_grad_(), weight.requires_grad_()
    offsets = torch.tensor(counts).cumsum(0).to(torch.int32)
    multiply = grouped_linear if linear else grouped_product
    out = multiply(*leaves, offsets, "native")
    found = (out, *torch.autograd.grad(out, leaves, upstream))
    assert [each.dtype for each in found] == [dtypes[0], *dtypes]
    matrices = weight.detach().transpose(1, 2) if linear else weight.detach()
    truth = expected(rows.detach(), matrices, upstream, counts)
    lengths = (inner, columns, max(counts))
    for each, exact, length in zip(found, truth, lengths, strict=True):
        each = each.transpose(1, 2) if linear and each.dim() == 3 else each
        # Terms are of variance 1; sums in float32, then rounded to what they are stored in.
        bound = 2e-6 * max(length, 1) ** 0.5 * 4
        rounded = torch.finfo(each.dtype).eps * exact.abs()
        assert ((each.double() - exact).abs() <= bound + rounded).all()
        assert torch.equal(each[sum(counts) :], torch.zeros_like(each[sum(counts) :])) or (
            each.dim() == 3
        )


@pytest.mark.parametrize("dtypes", KINDS, ids=str)
def test_rounding_on_the_way_is_rounding_before(dtypes):
    """To the bit: a float32 weight is rounded as ``to`` rounds it."""
    rows, weight, _ = problem([20, 7], 130, 70, (torch.bfloat16, torch.float32), False)
    offsets = torch.tensor([20, 27], dtype=torch.int32)
    for matrices in (weight, weight.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(
            GROUPED.product(rows, matrices, offsets)[:27],
            GROUPED.product(rows, matrices.bfloat16(), offsets)[:27],
        )


def test_threads_change_no_bit():
    rows, weight, upstream = problem([40, 300, 0, 5], 513, 300, KINDS[0], False)
    offsets = torch.tensor([40, 340, 340, 345], dtype=torch.int32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = torch.empty(4, 513, 300)
            GROUPED.outer(rows, upstream, offsets, out)
            found.append((GROUPED.product(rows, weight, offsets), out))
    finally:
        torch.set_num_threads(before)
    for product, outer in found[1:]:
        assert torch.equal(product, found[0][0]) and torch.equal(outer, found[0][1])


def test_nothing_beyond_is_written():
    """Room around the result, of a width that no vector divides, stays as it was."""
    rows, _, upstream = problem([9, 4], 19, 37, KINDS[0], False)
    room = torch.full((2 * 19 * 37 + 128,), 7.0)
    out = room[64:-64].view(2, 19, 37)
    GROUPED.outer(rows, upstream, torch.tensor([9, 13], dtype=torch.int32), out)
    assert (room[:64] == 7).all() and (room[-64:] == 7).all() and (out != 7).all()


def test_infinity_and_nan_stay_with_their_expert():
    rows, weight, _ = problem([3, 3], 8, 16, KINDS[0], False)
    weight[0] = torch.nan
    rows[4, 2] = torch.inf
    found = GROUPED.product(rows, weight, torch.tensor([3, 6], dtype=torch.int32))
    assert found[:3].isnan().all() and found[3].isfinite().all() and found[5].isfinite().all()
    assert (found[4].isinf() | found[4].isnan()).all()


def test_no_copy_of_a_float32_weight_is_kept():
    rows, weight, _ = problem([4, 4], 8, 16, (torch.bfloat16, torch.float32), False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        offsets = torch.tensor([4, 8], dtype=torch.int32)
        grouped_product(rows.requires_grad_(), weight.requires_grad_(), offsets, "native")
    assert [each.data_ptr() for each in kept if each.dim() == 3] == [weight.data_ptr()]


def _products(queue, folder):
    os.environ["XDG_CACHE_HOME"] = folder
    rows, weight, _ = problem([5, 6], 33, 40, KINDS[0], False)
    kernels = GroupedKernels("AVX512", FLAGS)
    queue.put(kernels.product(rows, weight, torch.tensor([5, 11], dtype=torch.int32)).tolist())


def test_two_processes_build_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    both = [context.Process(target=_products, args=(queue, str(tmp_path))) for _ in range(2)]
    for each in both:
        each.start()
    first, second = queue.get(timeout=120), queue.get(timeout=120)
    for each in both:
        each.join()
    assert first == second
    assert len(list((tmp_path / "turnout" / "kernels").glob("*.so"))) == 1


def test_auto_takes_it_where_it_was_built_before(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert GroupedKernels("AVX512", FLAGS).preferred == frozenset()
    GroupedKernels("AVX512", FLAGS).prefer()
    again = GroupedKernels("AVX512", FLAGS)
    assert again.preferred == again.dtypes >= {torch.float32}
    shape = ProductShape(64, 4, 8, 16, torch.float32, "cpu")
    assert choose(shape).backend != "native"
    monkeypatch.setattr(GROUPED, "preferred", again.preferred)
    assert choose(shape) == Choice("native", "built here, and fastest measured with AVX-512")
    for other in ({"dtype": torch.float64}, {"dtype": torch.float16}, {"device": "cuda"}):
        assert choose(ProductShape(**{**vars(shape), **other})).backend != "native"


def test_a_library_that_does_not_load_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = GroupedKernels("AVX512", FLAGS)
    built = kernels._source.built
    built.parent.mkdir(parents=True)
    built.write_bytes(b"not a library")
    assert GroupedKernels("AVX512", FLAGS).preferred == frozenset()
    with pytest.raises(UserError, match="delete that file, and try again"):
        kernels.prefer()


def test_without_the_instructions_of_bfloat16_float32_works(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = GroupedKernels("AVX512", frozenset())
    rows, weight, _ = problem([5, 6], 33, 40, KINDS[0], False)
    found = kernels.product(rows, weight, torch.tensor([5, 11], dtype=torch.int32))
    assert ((found[:5].double() - rows[:5].double() @ weight[0].double()).abs() < 1e-4).all()
    assert isinstance(kernels._library, ctypes.CDLL)
