"""Matrices laid out once as a product reads them fastest, for many passes over the same weights.

By the kernels in C++ where they are taken, else by oneDNN, which PyTorch carries: few rows are
multiplied sooner with a packed matrix (docs/results/generation.md).

Axes: N rows, D inner width, P the same as it is packed, F outer width, E experts.
"""

from abc import ABC, abstractmethod
from typing import cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from turnout.kernels import operators
from turnout.kernels.operators import FEW_ROWS, LIBRARY
from turnout.nn import onednn

FEW = 16  # rows, as in a step of generation, whose kernels are met again and again
PACKED = frozenset({torch.float32, torch.bfloat16})
WIDE = onednn.available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def packs(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``packed`` pays for a weight in this dtype: on a CPU with AVX-512, unless small."""
    able = WIDE and weight.device.type == "cpu" and not weight.is_mkldnn
    return able and dtype in PACKED and weight.numel() >= onednn.SMALL


def packed(weight: Float[Tensor, "F D"]) -> Float[Tensor, "F P"]:
    """A copy in a layout that ``packed_linear`` alone understands."""
    if weight.dtype in FEW_ROWS.preferred:
        return FEW_ROWS.pack(weight)
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()))


def packed_linear(
    x: Float[Tensor, "*N D"],
    weight: Float[Tensor, "F P"],
    bias: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "*N F"]:
    """``x @ weight.T + bias`` of a ``packed`` weight, for any numbers of rows; an operator of its
    own, since a compiler sees no layout of a library's."""
    product = operators.packed_linear(x, weight)
    return product if bias is None else product + bias


class PackedStack(nn.Module, ABC):
    """A packed matrix for each expert."""

    @abstractmethod
    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N F"]:
        """``rows[n] @ weight[e]`` of the stack [E, D, F], rows sorted by expert and ``offsets`` the
        ends of theirs; rows past the last offset give zero."""


def packed_stack(stacked: Float[Tensor, "E D F"], dtype: torch.dtype) -> PackedStack:
    """The matrices of so many experts."""
    turned = stacked.detach().to(dtype).transpose(1, 2)
    return PanelStack(turned) if dtype in FEW_ROWS.preferred else OneDNNStack(turned)


@final
class PanelStack(PackedStack):
    """For the kernels in C++: one call for all experts."""

    def __init__(self, stacked: Float[Tensor, "E F D"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(FEW_ROWS.pack(stacked), requires_grad=False)

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N F"]:
        return operators.panel_product(rows, self.weight, offsets)


@final
class OneDNNStack(PackedStack):
    """For oneDNN: a call for each expert that has rows."""

    def __init__(self, stacked: Float[Tensor, "E F D"]) -> None:
        super().__init__()
        self.width = stacked.shape[1]
        matrices = (torch.ops.mkldnn._reorder_linear_weight(each.contiguous()) for each in stacked)
        self.weights = nn.ParameterList(
            nn.Parameter(each, requires_grad=False) for each in matrices
        )

    def forward(
        self, rows: Float[Tensor, "N D"], offsets: Int[Tensor, " E"]
    ) -> Float[Tensor, "N F"]:
        found = torch.ops.turnout.packed_product(rows, offsets, list(self.weights), self.width)
        return cast(Tensor, found)


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    size = onednn.kernel_size(len(rows))
    if len(rows) <= FEW or size == len(rows):
        return onednn.linear(x, weight)
    grown = onednn.linear(F.pad(rows, (0, 0, 0, size - len(rows))), weight)
    return grown[: len(rows)].view(*x.shape[:-1], -1)


def _packed_product(rows: Tensor, offsets: Tensor, weights: list[Tensor], width: int) -> Tensor:
    out, start = rows.new_zeros(rows.shape[0], width), 0
    for weight, end in zip(weights, offsets.tolist(), strict=True):
        if end - start == rows.shape[0] > 0:
            return _by_onednn(rows, weight)
        if end > start:
            out[start:end] = _by_onednn(rows[start:end], weight)
        start = end
    return out


LIBRARY.impl("packed_linear", _by_onednn, "MkldnnCPU")  # type: ignore[no-untyped-call]
LIBRARY.define("packed_product(Tensor rows, Tensor offsets, Tensor[] weights, int width) -> Tensor")  # type: ignore[no-untyped-call]
for _key in ("CPU", "MkldnnCPU"):
    LIBRARY.impl("packed_product", _packed_product, _key)  # type: ignore[no-untyped-call]
torch.library.register_fake(
    "turnout::packed_product",
    lambda rows, offsets, weights, width: rows.new_empty(rows.shape[0], width),
    lib=LIBRARY,
)
