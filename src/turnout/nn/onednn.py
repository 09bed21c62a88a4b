"""Products of matrices by oneDNN where PyTorch's own choice is slower.

PyTorch gives float32 products to MKL, which keeps its AVX-512 kernels for Intel's processors; on
others it has half the rate or less (docs/results/products.md). oneDNN, which PyTorch carries for
other types, asks what the processor can do.

Axes: N rows, D inner width, F outer width.
"""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 1 << 15  # elements of a matrix below which a call costs more than it saves
BRIEF = 1 << 22  # multiplications below which an operator of our own is no gain


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


def known_faster(capability: str, cpuinfo: Path) -> bool:
    """Whether they are known to be faster: with AVX-512 on a processor that says it is no Intel."""
    if not available() or capability != "AVX512" or not cpuinfo.is_file():
        return False
    return "GenuineIntel" not in cpuinfo.read_text(errors="replace")


FASTER = known_faster(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo"))
