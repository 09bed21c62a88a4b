"""The grouped matrix product: rows sorted by expert times that expert's matrix.

One function, several backends, each behind the same ``torch.library`` custom operators, so that
compile, fake tensors and checkpointing see static shapes: N rows and the offsets as a tensor.
Axes: N rows, E experts, D inner width, F outer width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from turnout.config.errors import ConfigError
from turnout.config.moe import ProductName
from turnout.nn import onednn


def grouped_product(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, "E D F"],
    offsets: Int[Tensor, " E"],
    backend: ProductName = "auto",
) -> Float[Tensor, "N F"]:
    """``out[n] = rows[n] @ weight[e]`` for ``offsets[e-1] <= n < offsets[e]``.

    Rows past the last offset give zero, whatever they hold, and receive a zero gradient.

    Args:
        offsets: int32, the end of each expert's rows, ascending, at most N.
        backend: ``auto`` looks the choice up by static shapes.

    Raises:
        ConfigError: the backend named does not take this dtype and these widths.
    """
    return _multiply(rows, weight, offsets, backend, transposed=False)


def grouped_linear(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, "E F D"],
    offsets: Int[Tensor, " E"],
    backend: ProductName = "auto",
) -> Float[Tensor, "N F"]:
    """``grouped_product`` with matrices as ``nn.Linear`` has them: ``rows[n] @ weight[e].T``.

    The gradient of ``weight`` comes in its own layout; that of a transposed view would be copied.

    Raises:
        ConfigError: the backend named does not take this dtype and these widths.
    """
    return _multiply(rows, weight, offsets, backend, transposed=True)


def _multiply(
    rows: Tensor, weight: Tensor, offsets: Tensor, backend: ProductName, *, transposed: bool
) -> Tensor:
    d_out = weight.shape[1 if transposed else 2]
    experts, d_in = weight.shape[0], rows.shape[1]
    shape = ProductShape(rows.shape[0], experts, d_in, d_out, rows.dtype, rows.device.type)
    chosen = choose(shape).backend if backend == "auto" else backend
    if not usable(chosen, shape):
        raise ConfigError(
            "moe.product",
            backend,
            f"another for {rows.dtype} of widths {d_in} and {d_out}",
            "'auto' chooses one that takes them",
        )
    out: Tensor = torch.ops.turnout.grouped_product(rows, weight, offsets, transposed, chosen)
    return out


@dataclass(frozen=True)
class ProductShape:
    """The static facts a backend is chosen by."""

    rows: int
    num_experts: int
    d_in: int
    d_out: int
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it, in words."""

    backend: ProductName
    why: str


def choose(shape: ProductShape) -> Choice:
    """The backend for a shape, by static facts alone; docs/results/products.md has the times.

    On CPUs ``slices`` is level with ``grouped_mm`` in float32, and ``onednn`` takes half their time
    where ``nn.onednn`` says so. In bfloat16 and float16 every new number of rows makes oneDNN
    compile a kernel, and keep up to 1,024 of them: ``rounded`` meets few numbers, in two to three
    times less time and without the memory.
    """
    if shape.device == "cpu" and shape.dtype in (torch.bfloat16, torch.float16):
        return Choice("rounded", "fastest measured on CPUs in half precision")
    if onednn.takes(shape.dtype, shape.device, shape.d_in * shape.d_out):
        return Choice("onednn", "fastest measured on this kind of processor")
    if shape.device == "cpu":
        return Choice("slices", "fastest measured on CPUs")
    if not usable("grouped_mm", shape):
        return Choice("slices", f"grouped_mm takes no {shape.dtype} of these widths")
    return Choice("grouped_mm", "one kernel for all experts")


def usable(backend: ProductName, shape: ProductShape) -> bool:
    """Whether the backend accepts a shape at all."""
    if backend == "onednn":
        return onednn.available() and shape.device == "cpu" and shape.dtype == torch.float32
    if backend != "grouped_mm":
        return True
    # F.grouped_mm wants rows of whole 16 bytes, forward and backward, and no float64.
    aligned = all(width * shape.dtype.itemsize % 16 == 0 for width in (shape.d_in, shape.d_out))
    return aligned and shape.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _ends(offsets: Tensor) -> list[int]:
    return [int(end) for end in offsets.tolist()]


def _slices(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    ends = _ends(offsets)
    out = rows.new_empty(rows.shape[0], weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), ends, strict=True):
        if end > start:
            torch.mm(rows[start:end], matrix, out=out[start:end])
        start = end
    out[start:].zero_()
    return out


def _slices_outer(rows: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    out = rows.new_empty(offsets.shape[0], rows.shape[1], grad.shape[1])
    start = 0
    for matrix, end in zip(out.unbind(0), _ends(offsets), strict=True):
        if end > start:
            torch.mm(rows[start:end].t(), grad[start:end], out=matrix)
        else:
            matrix.zero_()
        start = end
    return out


def _rounded(rows: int, most: int) -> int:
    return min(onednn.kernel_size(rows), most)


def kernel_rows(rows: int, dtype: torch.dtype, device: str) -> int:
    """Rows to give a dense product so that its kernel is met again: see ``choose``."""
    rounds = device == "cpu" and dtype in (torch.bfloat16, torch.float16)
    rounds = rounds or onednn.takes(dtype, device, onednn.SMALL)
    return _rounded(rows, 2 * rows + 8) if rounds else rows


def _window(rows: Tensor, start: int, end: int, size: int) -> Tensor:
    """A copy of ``rows[start:end]`` with zero rows behind, ``size`` in all."""
    out = rows.new_empty(size, rows.shape[1])
    out[: end - start] = rows[start:end]
    out[end - start :].zero_()
    return out


def _rounded_slices(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    total = rows.shape[0]
    out = rows.new_empty(total, weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), _ends(offsets), strict=True):
        size = _rounded(end - start, total)
        if start + size > total:
            out[start:end] = torch.mm(_window(rows, start, end, size), matrix)[: end - start]
        elif end > start:
            # What is written past ``end`` belongs to later experts, or to nobody, and is
            # overwritten below.
            torch.mm(rows[start : start + size], matrix, out=out[start : start + size])
        start = end
    out[start:].zero_()
    return out


def _onednn(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    total = rows.shape[0]
    out = rows.new_empty(total, weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), _ends(offsets), strict=True):
        if end > start:
            size = _rounded(end - start, total)
            if start + size > total:
                window = _window(rows, start, end, size)
            else:
                window = rows[start : start + size]
            out[start:end] = onednn.product(window, matrix)[: end - start]
        start = end
    out[start:].zero_()
    return out


Into = Callable[[Tensor, Tensor, Tensor], object]  # the product of two, written into the third


def _windows_outer(rows: Tensor, grad: Tensor, offsets: Tensor, into: Into) -> Tensor:
    out = rows.new_empty(offsets.shape[0], rows.shape[1], grad.shape[1])
    start = 0
    for matrix, end in zip(out.unbind(0), _ends(offsets), strict=True):
        size = _rounded(end - start, rows.shape[0])
        if end > start:
            left, right = (_window(each, start, end, size) for each in (rows, grad))
            into(left.t(), right, matrix)
        else:
            matrix.zero_()
        start = end
    return out


def _rounded_outer(rows: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    return _windows_outer(rows, grad, offsets, lambda a, b, out: torch.mm(a, b, out=out))


def _onednn_outer(rows: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    return _windows_outer(rows, grad, offsets, lambda a, b, out: out.copy_(onednn.product(a, b)))


def _grouped_mm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    if rows.shape[0] == 0:  # the kernel refuses the strides of an empty tensor
        return rows.new_zeros(0, weight.shape[2])
    out = F.grouped_mm(rows, weight, offs=offsets)
    # The kernel leaves rows past the last offset uninitialised.
    past = torch.arange(rows.shape[0], device=rows.device) >= offsets[-1]
    return out.masked_fill_(past.unsqueeze(1), 0)


def _grouped_mm_outer(rows: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    if rows.shape[0] == 0:
        return rows.new_zeros(offsets.shape[0], rows.shape[1], grad.shape[1])
    return F.grouped_mm(rows.t(), grad, offs=offsets)


def _padded(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as [E, M, D] with zeros behind each expert's last, and where each row went."""
    ends = _ends(offsets)
    starts = [0, *ends[:-1]]
    longest = max((e - s for s, e in zip(starts, ends, strict=True)), default=0)
    total = ends[-1] if ends else 0
    place = torch.cat(
        [
            torch.arange(e * longest, e * longest + end - start, device=rows.device)
            for e, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
    )
    padded = rows.new_zeros(len(ends) * longest, rows.shape[1])
    padded[place] = rows[:total]
    return padded.view(len(ends), longest, rows.shape[1]), place


def _padded_bmm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    padded, place = _padded(rows, offsets)
    product = torch.bmm(padded, weight).flatten(0, 1)
    out = rows.new_zeros(rows.shape[0], weight.shape[2])
    out[: place.shape[0]] = product.index_select(0, place)
    return out


def _padded_bmm_outer(rows: Tensor, grad: Tensor, offsets: Tensor) -> Tensor:
    padded, _ = _padded(rows, offsets)
    padded_grad, _ = _padded(grad, offsets)
    return torch.bmm(padded.transpose(1, 2), padded_grad)


@dataclass(frozen=True)
class Backend:
    """A product and its outer product (the weights' gradient)."""

    product: Callable[[Tensor, Tensor, Tensor], Tensor]
    outer: Callable[[Tensor, Tensor, Tensor], Tensor]


BACKENDS: dict[ProductName, Backend] = {
    "slices": Backend(_slices, _slices_outer),
    "rounded": Backend(_rounded_slices, _rounded_outer),
    "onednn": Backend(_onednn, _onednn_outer),
    "grouped_mm": Backend(_grouped_mm, _grouped_mm_outer),
    "padded_bmm": Backend(_padded_bmm, _padded_bmm_outer),
}


@torch.library.custom_op(
    "turnout::grouped_product",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor offsets, bool transposed, str backend) -> Tensor",
)
def _product_op(rows, weight, offsets, transposed, backend):  # type: ignore[no-untyped-def]
    matrices = weight.transpose(1, 2) if transposed else weight
    return BACKENDS[backend].product(rows, matrices, offsets)


@_product_op.register_fake
def _(rows, weight, offsets, transposed, backend):  # type: ignore[no-untyped-def]
    return rows.new_empty(rows.shape[0], weight.shape[1 if transposed else 2])


@torch.library.custom_op(
    "turnout::grouped_outer",
    mutates_args=(),
    schema="(Tensor rows, Tensor grad, Tensor offsets, str backend) -> Tensor",
)
def _outer_op(rows, grad, offsets, backend):  # type: ignore[no-untyped-def]
    return BACKENDS[backend].outer(rows, grad, offsets)


@_outer_op.register_fake
def _(rows, grad, offsets, backend):  # type: ignore[no-untyped-def]
    return rows.new_empty(offsets.shape[0], rows.shape[1], grad.shape[1])


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    rows, weight, offsets, ctx.transposed, ctx.backend = inputs
    ctx.save_for_backward(rows, weight, offsets)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    rows, weight, offsets = ctx.saved_tensors
    # An expanded gradient (``out.sum().backward()``) has stride 0, which grouped_mm refuses.
    grad = grad.contiguous()
    ops = torch.ops.turnout
    grad_rows = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_rows = ops.grouped_product(grad, weight, offsets, not ctx.transposed, ctx.backend)
    if ctx.needs_input_grad[1]:
        left, right = (grad, rows) if ctx.transposed else (rows, grad)
        grad_weight = ops.grouped_outer(left, right, offsets, ctx.backend)
    return grad_rows, grad_weight, None, None, None


_product_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.grouped_product])
def _product_flops(
    rows: Any, weight: Any, offsets: Any, transposed: bool, backend: str, **_: Any
) -> int:
    return int(2 * rows[0] * weight[1] * weight[2])


@register_flop_formula([torch.ops.turnout.grouped_outer])
def _outer_flops(rows: Any, grad: Any, offsets: Any, backend: str, **_: Any) -> int:
    return int(2 * rows[0] * rows[1] * grad[1])
