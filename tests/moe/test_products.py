"""Every backend of the grouped product against a loop, with poisoned scratch."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.cases import PRODUCTS
from turnout.config.errors import ConfigError
from turnout.moe.product_backends import _rounded, kernel_rows
from turnout.moe.products import (
    Choice,
    ProductShape,
    choose,
    grouped_linear,
    grouped_product,
    usable,
)
from turnout.nn import onednn

COUNTS = {
    "even": [4, 4, 4, 4],
    "empty experts": [0, 7, 0, 5],
    "all to one": [0, 0, 16, 0],
    "one row": [0, 1, 0, 0],
    "uneven": [37, 0, 3, 100, 9],
    "none": [0, 0, 0, 0],
}
PAST = 3  # rows behind the last offset


def problem(counts: list[int], dtype: torch.dtype, d_in: int = 8, d_out: int = 16):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(counts) + PAST, d_in, generator=generator)
    rows[sum(counts) :] = torch.nan
    weight = torch.randn(len(counts), d_in, d_out, generator=generator)
    offsets = torch.tensor(counts).cumsum(0).to(torch.int32)
    return rows.to(dtype), weight.to(dtype), offsets


def loop(rows, weight, counts):
    """Row by row, in float64."""
    out = torch.zeros(rows.shape[0], weight.shape[2], dtype=torch.float64)
    row = 0
    for expert, count in enumerate(counts):
        for _ in range(count):
            out[row] = rows[row].double() @ weight[expert].double()
            row += 1
    return out


@pytest.mark.parametrize("backend", PRODUCTS)
@pytest.mark.parametrize("case", COUNTS)
def test_linear_is_the_product_with_transposed_matrices(backend, case):
    rows, weight, offsets = problem(COUNTS[case], torch.float32)
    found = []
    for function, matrices in (
        (grouped_product, weight),
        (grouped_linear, weight.transpose(1, 2).contiguous()),
    ):
        leaves = rows.clone().requires_grad_(), matrices.clone().requires_grad_()
        out = function(*leaves, offsets, backend)
        upstream = (torch.arange(out.numel()) % 7 - 3).view_as(out) / 7
        found.append((out, *torch.autograd.grad((out * upstream).sum(), leaves)))
    (out, grad_rows, grad), (linear, linear_rows, linear_grad) = found
    assert linear_grad.is_contiguous()
    torch.testing.assert_close(linear, out, rtol=0, atol=1e-5)
    torch.testing.assert_close(linear_rows, grad_rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(linear_grad.transpose(1, 2), grad, rtol=0, atol=1e-4)


def test_rows_for_a_kernel(monkeypatch):
    """128 to 256 rows: sixteen sizes, multiples of 8; other devices as they are, and float32 unless
    oneDNN computes it."""
    monkeypatch.setattr(onednn, "FASTER", True)
    assert kernel_rows(130, torch.float32, "cpu") == 136
    monkeypatch.setattr(onednn, "FASTER", False)
    assert kernel_rows(130, torch.bfloat16, "cpu") == 136
    assert kernel_rows(3, torch.bfloat16, "cpu") == 8
    assert kernel_rows(130, torch.float32, "cpu") == 130
    assert kernel_rows(130, torch.bfloat16, "cuda") == 130


@pytest.mark.parametrize("backend", PRODUCTS)
@pytest.mark.parametrize("case", COUNTS)
def test_product_and_gradients_equal_a_loop(backend, case):
    counts = COUNTS[case]
    rows, weight, offsets = problem(counts, torch.float32)
    rows.requires_grad_()
    weight.requires_grad_()
    upstream = torch.randn(rows.shape[0], 16, generator=torch.Generator().manual_seed(1))

    out = grouped_product(rows, weight, offsets, backend)
    total = sum(counts)
    assert torch.allclose(out.double()[:total], loop(rows, weight, counts)[:total], atol=1e-5)
    assert torch.equal(out[total:], torch.zeros(PAST, 16))
    # NaN in the gradient of rows that belong to nobody must not spread either.
    upstream[total:] = torch.nan
    out.backward(upstream)
    assert torch.equal(rows.grad[total:], torch.zeros(PAST, 8))
    expected = torch.zeros(weight.shape, dtype=torch.float64)
    start = 0
    for expert, count in enumerate(counts):
        part = slice(start, start + count)
        expected[expert] = rows[part].detach().double().t() @ upstream[part].double()
        back = upstream[part].double() @ weight[expert].detach().double().t()
        assert torch.allclose(rows.grad[part].double(), back, atol=1e-5)
        start += count
    assert torch.allclose(weight.grad.double(), expected, atol=1e-5)


@pytest.mark.parametrize("backend", PRODUCTS)
def test_a_stride_0_gradient_is_accepted(backend):
    rows, weight, offsets = problem([4, 4], torch.float32)
    weight.requires_grad_()
    grouped_product(rows, weight, offsets, backend).sum().backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("backend", PRODUCTS)
def test_no_rows_at_all(backend):
    weight = torch.randn(3, 8, 16, requires_grad=True)
    rows = torch.zeros(0, 8, requires_grad=True)
    out = grouped_product(rows, weight, torch.zeros(3, dtype=torch.int32), backend)
    out.sum().backward()
    assert out.shape == (0, 16)
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("backend", ["slices", "padded_bmm"])
def test_float64_passes_gradcheck(backend):
    rows, weight, offsets = problem([2, 0, 3], torch.float64, 3, 2)
    rows = torch.nan_to_num(rows)
    torch.autograd.gradcheck(
        lambda r, w: grouped_product(r, w, offsets, backend),
        (rows.requires_grad_(), weight.requires_grad_()),
    )


@pytest.mark.parametrize("backend", PRODUCTS)
def test_it_traces_under_fake_tensors_and_counts_its_arithmetic(backend):
    rows, weight, offsets = problem(COUNTS["even"], torch.float32)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in (rows, weight, offsets)]
        assert grouped_product(*fake, backend).shape == (16 + PAST, 16)
    with FlopCounterMode(display=False) as counter:
        grouped_product(rows, weight.requires_grad_(), offsets, backend).sum().backward()
    # forward and the weights' gradient: 2 * rows * 8 * 16 each
    assert counter.get_total_flops() == 2 * 2 * (16 + PAST) * 8 * 16


@pytest.mark.parametrize("backend", PRODUCTS)
def test_operators_keep_torch_library_s_rules(backend):
    rows, weight, offsets = problem(COUNTS["empty experts"], torch.float32)
    rows, weight = torch.nan_to_num(rows).requires_grad_(), weight.requires_grad_()
    arguments = (rows, weight, None, offsets, False, backend)
    torch.library.opcheck(torch.ops.turnout.grouped_product.default, arguments)


def test_the_choice_gives_its_reason(monkeypatch):
    cpu = ProductShape(64, 4, 8, 16, torch.float32, "cpu")
    assert choose(cpu) == Choice("slices", "fastest measured on CPUs")
    large = replace(cpu, d_in=256, d_out=128)  # 32,768 elements a matrix: the least
    monkeypatch.setattr(onednn, "FASTER", True)
    assert choose(large) == Choice("onednn", "fastest measured on this kind of processor")
    for other in (cpu, replace(large, dtype=torch.float64), replace(large, d_in=255)):
        assert choose(other).backend == "slices"
    monkeypatch.setattr(onednn, "FASTER", False)
    assert choose(large).backend == "slices"
    half = replace(cpu, dtype=torch.bfloat16)
    assert choose(half) == Choice("rounded", "fastest measured on CPUs in half precision")
    device = replace(cpu, device="cuda")
    assert choose(device).backend == "grouped_mm"
    for narrow in (replace(device, d_in=6), replace(device, dtype=torch.float64)):
        assert not usable("grouped_mm", narrow)
        assert choose(narrow).backend == "slices" and "grouped_mm takes no" in choose(narrow).why


def test_rounding_leaves_few_sizes():
    # Steps of a thirty-second of the next power of two, and of 8 at least: 129 of 256 goes up in
    # steps of 8, 1000 of 1024 in steps of 32, 1025 of 2048 in steps of 64.
    rows = [0, 1, 8, 9, 100, 129, 1000, 1024, 1025]
    assert [_rounded(n, 5000) for n in rows] == [0, 8, 8, 16, 104, 136, 1024, 1024, 1088]
    assert _rounded(1025, 1030) == 1030, "never more rows than there are"
    sizes = {_rounded(n, 8192) for n in range(1, 8193)}
    assert len(sizes) == 32 + 5 * 16  # 32 up to 256, then sixteen an octave
    assert all(0 <= _rounded(n, 8192) - n < max(8, n / 16) for n in range(8193))


@pytest.mark.parametrize("d_in", [3, 8])
def test_auto_takes_any_shape(d_in):
    rows, weight, offsets = problem(COUNTS["even"], torch.float32, d_in)
    out = grouped_product(rows, weight, offsets)
    assert torch.allclose(out[:16].double(), loop(rows, weight, COUNTS["even"])[:16], atol=1e-5)


def test_a_backend_that_cannot_is_refused_in_one_line():
    rows, weight, offsets = problem(COUNTS["even"], torch.float32, 3)
    with pytest.raises(ConfigError, match=r"moe.product = 'grouped_mm'.*widths 3 and 16"):
        grouped_product(rows, weight, offsets, "grouped_mm")


@pytest.mark.parametrize(
    ("capability", "text", "faster"),
    [
        ("AVX512", "vendor_id : AuthenticAMD", True),
        ("AVX512", "vendor_id : GenuineIntel", False),
        ("AVX2", "vendor_id : AuthenticAMD", False),
    ],
)
def test_which_processors_are_known_to_gain(tmp_path, capability, text, faster):
    (tmp_path / "cpuinfo").write_text(text)
    assert onednn.known_faster(capability, tmp_path / "cpuinfo") == faster
    assert not onednn.known_faster(capability, tmp_path / "absent")


def test_onednn_takes_float32_alone():
    rows, weight, offsets = problem(COUNTS["even"], torch.bfloat16)
    with pytest.raises(ConfigError, match=r"moe.product = 'onednn'.*torch.bfloat16"):
        grouped_product(rows, weight, offsets, "onednn")


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fastest_product_is_the_product(monkeypatch, faster, dtype):
    monkeypatch.setattr(onednn, "FASTER", faster)
    monkeypatch.setattr(onednn, "SMALL", 0)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, m, generator=generator).to(dtype) for n, m in ((5, 8), (6, 8)))
    expected = left.double() @ right.t().double()
    close = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.05}
    torch.testing.assert_close(onednn.fastest(left, right.t()).double(), expected, **close)
    for out in (torch.empty(5, 6, dtype=dtype), torch.empty(5, 6, dtype=torch.float64)):
        onednn.fastest_into(left, right.t(), out)
        torch.testing.assert_close(out.double(), expected, **close)
