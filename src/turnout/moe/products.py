"""The grouped matrix product: rows sorted by expert times that expert's matrix.

One function, several backends, each behind the same ``torch.library`` custom operators, so that
compile, fake tensors and checkpointing see static shapes: N rows and the offsets as a tensor.
Axes: N rows, E experts, D inner width, F outer width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from turnout.config.errors import ConfigError
from turnout.config.moe import ProductName
from turnout.kernels.grouped import GROUPED
from turnout.moe.product_backends import BACKENDS
from turnout.nn import onednn


def grouped_product(
    rows: Float[Tensor, "N D"],
    weight: Float[Tensor, "E D F"],
    offsets: Int[Tensor, " E"],
    backend: ProductName = "auto",
) -> Float[Tensor, "N F"]:
    """``out[n] = rows[n] @ weight[e]`` for ``offsets[e-1] <= n < offsets[e]``.

    Rows past the last offset give zero, whatever they hold, and receive a zero gradient. A weight
    of another dtype is cast to that of the rows, and has its gradient in its own. ``native`` casts
    float32 weights while it reads them, and keeps no copy.

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
    as_it_is = weight.dtype == rows.dtype or (chosen == "native" and weight.dtype == torch.float32)
    cast = None if as_it_is else weight.detach().to(rows.dtype)
    out: Tensor = torch.ops.turnout.grouped_product(rows, weight, cast, offsets, transposed, chosen)
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

    ``native`` leads in both dtypes on processors with AVX-512 (docs/results/layer.md), and is taken
    where it was built beforehand: nothing is compiled that nobody asked for.
    On CPUs ``slices`` is level with ``grouped_mm`` in float32, and ``onednn`` takes half their time
    where ``nn.onednn`` says so. In bfloat16 and float16 every new number of rows makes oneDNN
    compile a kernel, and keep up to 1,024 of them: ``rounded`` meets few numbers, in two to three
    times less time and without the memory.
    """
    if shape.device == "cpu" and shape.dtype in GROUPED.preferred:
        return Choice("native", "built here, and fastest measured with AVX-512")
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
    if backend == "native":
        return shape.device == "cpu" and shape.dtype in GROUPED.dtypes
    if backend == "onednn":
        return onednn.available() and shape.device == "cpu" and shape.dtype == torch.float32
    if backend != "grouped_mm":
        return True
    # F.grouped_mm wants rows of whole 16 bytes, forward and backward, and no float64.
    aligned = all(width * shape.dtype.itemsize % 16 == 0 for width in (shape.d_in, shape.d_out))
    return aligned and shape.dtype in (torch.float32, torch.bfloat16, torch.float16)


@torch.library.custom_op(
    "turnout::grouped_product",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor? cast, Tensor offsets, bool transposed, "
    "str backend) -> Tensor",
)
def _product_op(rows, weight, cast, offsets, transposed, backend):  # type: ignore[no-untyped-def]
    weight = weight if cast is None else cast
    matrices = weight.transpose(1, 2) if transposed else weight
    return BACKENDS[backend].product(rows, matrices, offsets)


@_product_op.register_fake
def _(rows, weight, cast, offsets, transposed, backend):  # type: ignore[no-untyped-def]
    return rows.new_empty(rows.shape[0], weight.shape[1 if transposed else 2])


@torch.library.custom_op(
    "turnout::grouped_outer",
    mutates_args=(),
    schema="(Tensor rows, Tensor grad, Tensor offsets, ScalarType dtype, str backend) -> Tensor",
)
def _outer_op(rows, grad, offsets, dtype, backend):  # type: ignore[no-untyped-def]
    return BACKENDS[backend].outer(rows, grad, offsets, dtype)


@_outer_op.register_fake
def _(rows, grad, offsets, dtype, backend):  # type: ignore[no-untyped-def]
    return rows.new_empty(offsets.shape[0], rows.shape[1], grad.shape[1], dtype=dtype)


def _save(ctx: Any, inputs: Any, output: Tensor) -> None:
    rows, weight, cast, offsets, ctx.transposed, ctx.backend = inputs
    ctx.dtype = weight.dtype
    ctx.save_for_backward(rows, weight if cast is None else cast, offsets)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, offsets = ctx.saved_tensors
    # An expanded gradient (``out.sum().backward()``) has stride 0, which grouped_mm refuses.
    grad = grad.contiguous()
    ops = torch.ops.turnout
    grad_rows = grad_weight = None
    if ctx.needs_input_grad[0]:
        back = not ctx.transposed
        grad_rows = ops.grouped_product(grad, weight, None, offsets, back, ctx.backend)
    if ctx.needs_input_grad[1]:
        left, right = (grad, rows) if ctx.transposed else (rows, grad)
        grad_weight = ops.grouped_outer(left, right, offsets, ctx.dtype, ctx.backend)
    return grad_rows, grad_weight, None, None, None, None


_product_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.turnout.grouped_product])
def _product_flops(
    rows: Any, weight: Any, cast: Any, offsets: Any, transposed: bool, backend: str, **_: Any
) -> int:
    return int(2 * rows[0] * weight[1] * weight[2])


@register_flop_formula([torch.ops.turnout.grouped_outer])
def _outer_flops(
    rows: Any, grad: Any, offsets: Any, dtype: torch.dtype, backend: str, **_: Any
) -> int:
    return int(2 * rows[0] * rows[1] * grad[1])
