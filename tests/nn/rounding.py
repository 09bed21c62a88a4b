"""Values and gradients of a kernel in a narrow dtype against the same in float64."""

from collections.abc import Iterable

import torch
from torch import Tensor

# bfloat16 has 8 bits: results of sums of rounded terms are off by some units of the last.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 3e-2}


def assert_rounded(found: Iterable[Tensor], exact: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Each is of that dtype, and apart by no more than it rounds."""
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype
        one, other = one.detach().double(), other.detach()
        scale = max(float(other.abs().max()), 1.0)
        assert float((one - other).abs().max()) <= BOUNDS[dtype] * scale
