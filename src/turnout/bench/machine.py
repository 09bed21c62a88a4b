"""What is measured on: the machine by its names, its peak of matrix products and its bandwidth."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from turnout.bench.timing import Work
from turnout.kernels.grouped import GROUPED
from turnout.nn import onednn
from turnout.train.machine import machine, package_version, versions


@dataclass(frozen=True)
class Probe:
    """Sizes of what the machine itself is measured with.

    ``square`` is the side of the matrices that are multiplied, and ``size`` the bytes that are
    read: many times what the caches of a processor hold.
    """

    square: int = 2048
    size: int = 1 << 29

    @property
    def flops(self) -> int:
        """Of one product."""
        return 2 * self.square**3

    def works(self, dtype: torch.dtype) -> tuple[Work, Work]:
        """A product by the fastest library, and a read of memory; their tensors live in them."""
        left, right = (torch.randn(self.square, self.square).to(dtype) for _ in range(2))
        read = torch.ones(self.size // 4)
        return lambda: onednn.fastest(left, right), lambda: read.sum()


@dataclass(frozen=True)
class Rates:
    """What the machine reached: FLOP/s of products in the contest's dtype, and bytes/s of reads."""

    peak: float
    bandwidth: float


def facts(peers: tuple[str, ...], kept: bool) -> Mapping[str, Any]:
    """The machine in words and numbers; no name or address.

    Args:
        peers: distributions of other libraries, whose versions are told.
        kept: whether freed memory stays in the process.
    """
    packages = {name: package_version(name) for name in peers}
    here = {name: found for name, found in packages.items() if found != "not installed"}
    return {
        **machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "freed_memory": "kept" if kept else "given back",
        "kernels": sorted(str(each).removeprefix("torch.") for each in GROUPED.preferred),
        "versions": {**versions(), **here},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
