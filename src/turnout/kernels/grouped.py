"""Products of rows sorted by expert with a matrix an expert, by ``grouped.cpp``.

oneDNN packs a matrix for every product and has a kernel for every number of rows; here a block of
columns is packed while it is multiplied, any number of rows is exact, and weights are rounded to
bfloat16 on the way (docs/results/layer.md). Axes: N rows, E experts, D inner width, F outer width.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.kernels.compiler import Source
from turnout.kernels.library import HERE, Kernels

_KINDS: Final = {
    (torch.float32, torch.float32): 0,
    (torch.bfloat16, torch.float32): 1,
    (torch.bfloat16, torch.bfloat16): 2,
}
# Of a call: two factors and offsets, then so many sizes, the kind, the threads, and the result.
_SIZES: Final = {"product": 4, "outer": 3}


@final
class GroupedKernels(Kernels):
    """The products and their gradients; of the machine that ``HERE`` describes, ``GROUPED``."""

    def __init__(self, capability: str, flags: frozenset[str]) -> None:
        self._library: ctypes.CDLL | None = None
        super().__init__(Source(Path(__file__).with_name("grouped.cpp")), capability, flags)

    @property
    def loaded(self) -> bool:
        return self._library is not None

    def prefers(self, rows: torch.dtype, weight: torch.dtype) -> bool:
        """Whether they are taken where nobody says otherwise, for rows and a weight of these."""
        return rows in self.preferred and (rows, weight) in _KINDS

    def product(
        self,
        rows: Float[Tensor, "N D"],
        weight: Float[Tensor, "E D F"],
        offsets: Int[Tensor, " E"],
    ) -> Float[Tensor, "N F"]:
        """``rows[n] @ weight[e]`` in the dtype of ``rows``; rows past the last offset give zero.

        Args:
            weight: float32, or bfloat16 as the rows; read fastest with D or F as its last stride.
            offsets: int32, the end of each expert's rows.
        """
        transposed = not weight.is_contiguous() and weight.transpose(1, 2).is_contiguous()
        weight = weight if transposed else weight.contiguous()
        out = rows.new_empty(rows.shape[0], weight.shape[2])
        kind = _KINDS[rows.dtype, weight.dtype]
        sizes = (*weight.shape, int(transposed), kind)
        self._call("product", (rows.contiguous(), weight, offsets.contiguous()), sizes, out)
        out[int(offsets[-1]) if len(offsets) else 0 :].zero_()
        return out

    def outer(
        self,
        rows: Float[Tensor, "N D"],
        grad: Float[Tensor, "N F"],
        offsets: Int[Tensor, " E"],
        out: Float[Tensor, "E D F"],
    ) -> None:
        """Writes ``rows[n] grad[n]^T``, summed over each expert's rows, into ``out``: float32, or
        bfloat16 as the rows."""
        assert out.is_contiguous()
        given = (rows.contiguous(), grad.contiguous(), offsets.contiguous())
        self._call("outer", given, (*out.shape, _KINDS[rows.dtype, out.dtype]), out)

    def _call(self, name: str, given: Sequence[Tensor], sizes: Sequence[int], out: Tensor) -> None:
        self.load()
        call = getattr(self._library, f"turnout_{name}")
        at = (each.data_ptr() for each in given)
        call(*at, *sizes, torch.get_num_threads(), out.data_ptr())

    def _open(self, built: Path) -> None:
        library = ctypes.CDLL(str(built))
        pointer, size = ctypes.c_void_p, ctypes.c_long
        for name, sizes in _SIZES.items():
            types = [pointer] * 3 + [size] * (sizes + 2) + [pointer]
            getattr(library, f"turnout_{name}").argtypes = types
        self._library = library


GROUPED: Final = GroupedKernels(*HERE)
"""Of this process."""
