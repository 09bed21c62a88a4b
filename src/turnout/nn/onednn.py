"""Products of matrices by oneDNN where PyTorch's own choice is slower.

PyTorch gives float32 products to MKL, which keeps its AVX-512 kernels for Intel's processors; on
others it has half the rate or less (docs/results/products.md). oneDNN, which PyTorch carries for
other types, asks what the processor can do. And few rows are read against a matrix more than twice
as fast where it lies as oneDNN wants it (docs/results/generation.md).

Axes: N rows, D inner width, F outer width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMALL = 1 << 15  # elements of a matrix below which a call costs more than it saves
BRIEF = 1 << 22  # multiplications below which an operator of our own is no gain
FEW = 16  # rows, as in a step of generation, whose kernels are met again and again
LIBRARY = torch.library.Library("turnout", "FRAGMENT")  # type: ignore[no-untyped-call]
PACKED = frozenset({torch.float32, torch.bfloat16})


def available() -> bool:
    """Whether this build of PyTorch has the operators."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(left: Float[Tensor, "N D"], right: Float[Tensor, "D F"]) -> Float[Tensor, "N F"]:
    """``left @ right``, float32 on a CPU, of any strides; without gradients.

    Every new N makes oneDNN compile a kernel, of which it keeps 1,024: give it few.
    """
    return linear(left, right.t())


def linear(
    x: Float[Tensor, "*N D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "*N F"]:
    """``x @ weight.T + bias``, as ``product``."""
    found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return cast(Tensor, found)


def kernel_size(rows: int) -> int:
    """Rows of a kernel for so many: sixteen sizes an octave, multiples of 8."""
    step = max(8, 1 << max(rows.bit_length() - 5, 0))
    return -(-rows // step) * step


def takes(dtype: torch.dtype, device: str, elements: int, *, rows: int | None = None) -> bool:
    """Whether it is the faster one for a matrix of so many elements, and for so many rows where
    calls are dear."""
    here = FASTER and dtype == torch.float32 and device == "cpu"
    return here and elements >= SMALL and (rows is None or rows * elements >= BRIEF)


def fastest(left: Float[Tensor, "N D"], right: Float[Tensor, "D F"]) -> Float[Tensor, "N F"]:
    """``left @ right`` by whichever library is faster; without gradients."""
    if takes(left.dtype, left.device.type, right.numel()):
        return product(left, right)
    return left @ right


def fastest_into(
    left: Float[Tensor, "N D"], right: Float[Tensor, "D F"], out: Float[Tensor, "N F"]
) -> None:
    """Writes ``left @ right`` into ``out``, whose dtype may be another."""
    if takes(left.dtype, left.device.type, out.numel()):
        out.copy_(product(left, right))
    elif out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def packs(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``packed`` pays for a weight in this dtype: on a CPU with AVX-512, unless small."""
    able = WIDE and weight.device.type == "cpu" and not weight.is_mkldnn
    return able and dtype in PACKED and weight.numel() >= SMALL


def packed(weight: Float[Tensor, "F D"]) -> Float[Tensor, "F D"]:
    """A copy as ``linear`` reads it fastest, in a layout that only oneDNN understands."""
    found = torch.ops.mkldnn._reorder_linear_weight(weight)
    return cast(Tensor, found)


def packed_linear(
    x: Float[Tensor, "*N D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "*N F"]:
    """``x @ weight.T + bias`` of a ``packed`` weight, for any numbers of rows; an operator of its
    own, since a compiler sees no layout of oneDNN's."""
    return cast(Tensor, torch.ops.turnout.packed_linear(x, weight, bias))


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.flatten(0, -2)
    size = kernel_size(len(rows))
    if len(rows) <= FEW or size == len(rows):
        return linear(x, weight, bias)
    grown = linear(F.pad(rows, (0, 0, 0, size - len(rows))), weight, bias)
    return grown[: len(rows)].view(*x.shape[:-1], -1)


def _shape_of_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def operator(schema: str, compute: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    """Makes ``turnout::...`` of a function that takes packed weights and has no gradient.

    ``torch.library.custom_op`` would cost eight microseconds a call, as long as a small product.
    """
    LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    name = schema.split("(")[0]
    for key in ("CPU", "MkldnnCPU"):
        LIBRARY.impl(name, compute, key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"turnout::{name}", shape, lib=LIBRARY)


def known_faster(capability: str, cpuinfo: Path) -> bool:
    """Whether they are known to be faster: with AVX-512 on a processor that says it is no Intel."""
    if not available() or capability != "AVX512" or not cpuinfo.is_file():
        return False
    return "GenuineIntel" not in cpuinfo.read_text(errors="replace")


WIDE = available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
FASTER = known_faster(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo"))
operator(
    "packed_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _packed_linear,
    _shape_of_linear,
)
