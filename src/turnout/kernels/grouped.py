"""Products of rows sorted by expert with a matrix an expert, by ``grouped.cpp``.

oneDNN packs a matrix for every product and has a kernel for every number of rows; here a block of
columns is packed while it is multiplied, any number of rows is exact, and weights are rounded to
bfloat16 on the way (docs/results/layer.md). Axes: N rows, E experts, D inner width, F outer width.
"""

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.kernels.compiler import Source

_WIDE = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
_HALF = "-mavx512bf16"
_KINDS: Final = {
    (torch.float32, torch.float32): 0,
    (torch.bfloat16, torch.float32): 1,
    (torch.bfloat16, torch.bfloat16): 2,
}


@final
class GroupedKernels:
    """The kernels of this machine: loaded where they are built already, else built on first use.

    Attributes:
        dtypes: of rows that they can compute here.
        preferred: the dtypes for which they are taken where nobody says otherwise: ``dtypes``, if
            they were built when the process began. So nothing is built that was not asked for.
        missing: why there can be none here; empty if there can.
    """

    def __init__(self, capability: str, flags: frozenset[str]) -> None:
        half = "avx512_bf16" in flags
        self.missing = "" if capability == "AVX512" else "they need AVX-512, which is not here"
        self.dtypes = frozenset({torch.float32, torch.bfloat16} if half else {torch.float32})
        self.preferred: frozenset[torch.dtype] = frozenset()
        self._source = Source(
            Path(__file__).with_name("grouped.cpp"), (*_WIDE, _HALF) if half else _WIDE
        )
        self._library: ctypes.CDLL | None = None
        if self.missing:
            self.dtypes = frozenset()
        elif self._source.built.exists():
            with suppress(UserError):
                self.prefer()

    def prefer(self) -> None:
        """Takes them from now on, built first unless they are: seconds, once a user and version.

        Raises:
            UserError: there can be none here, or the compiler failed.
        """
        self._loaded()
        self.preferred = self.dtypes

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
        rows, offsets = rows.contiguous(), offsets.contiguous()
        weight = weight if transposed else weight.contiguous()
        experts, inner, columns = weight.shape
        out = rows.new_empty(rows.shape[0], columns)
        self._loaded().turnout_product(
            _at(rows),
            _at(weight),
            _at(offsets),
            *map(ctypes.c_long, (experts, inner, columns)),
            int(transposed),
            _KINDS[rows.dtype, weight.dtype],
            ctypes.c_long(torch.get_num_threads()),
            _at(out),
        )
        out[int(offsets[-1]) if experts else 0 :].zero_()
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
        rows, grad, offsets = rows.contiguous(), grad.contiguous(), offsets.contiguous()
        assert out.is_contiguous()
        self._loaded().turnout_outer(
            _at(rows),
            _at(grad),
            _at(offsets),
            *map(ctypes.c_long, out.shape),
            _KINDS[rows.dtype, out.dtype],
            ctypes.c_long(torch.get_num_threads()),
            _at(out),
        )

    def _loaded(self) -> ctypes.CDLL:
        if self._library is not None:
            return self._library
        if self.missing:
            raise UserError(f"kernels in C++: {self.missing}")
        built = self._source.build()
        try:
            self._library = ctypes.CDLL(str(built))
        except OSError as error:
            raise UserError(f"kernels in C++: {error}; delete that file, and try again") from None
        return self._library


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _processor_flags(cpuinfo: Path) -> frozenset[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    if not cpuinfo.is_file():
        return frozenset()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


GROUPED: Final = GroupedKernels(
    torch.backends.cpu.get_cpu_capability(), _processor_flags(Path("/proc/cpuinfo"))
)
"""Of this process."""
