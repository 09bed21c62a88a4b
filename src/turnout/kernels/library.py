"""What kernels in C++ have in common: what they need, and when they are built and taken."""

from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from turnout.config.errors import UserError
from turnout.kernels.compiler import Source

_WIDE = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
_HALF = "-mavx512bf16"


class Kernels(ABC):
    """A library for this machine: loaded where it is built already, else built on first use.

    Attributes:
        dtypes: of rows that it can compute here.
        preferred: the dtypes for which it is taken where nobody says otherwise: ``dtypes``, if it
            was built when the process began. So nothing is built that was not asked for.
        missing: why there can be none here; empty if there can.
    """

    def __init__(self, source: Source, capability: str, flags: frozenset[str]) -> None:
        half = "avx512_bf16" in flags
        self.missing = "" if capability == "AVX512" else "they need AVX-512, which is not here"
        self.dtypes = frozenset({torch.float32, torch.bfloat16} if half else {torch.float32})
        self.preferred: frozenset[torch.dtype] = frozenset()
        self._source = source.with_options((*_WIDE, _HALF) if half else _WIDE)
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
        self.load()
        self.preferred = self.dtypes

    def load(self) -> None:
        """Loads the library, built first unless it is; again it does nothing.

        Raises:
            UserError: as ``prefer``.
        """
        if self.loaded:
            return
        if self.missing:
            raise UserError(f"kernels in C++: {self.missing}")
        built = self._source.build()
        try:
            self._open(built)
        except OSError as error:
            raise UserError(f"kernels in C++: {error}; delete that file, and try again") from None

    @property
    @abstractmethod
    def loaded(self) -> bool:
        """Whether it can be called."""

    @abstractmethod
    def _open(self, built: Path) -> None:
        """Loads a file.

        Raises:
            OSError: it is no library.
        """


def _processor_flags(cpuinfo: Path) -> frozenset[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    if not cpuinfo.is_file():
        return frozenset()
    lines = cpuinfo.read_text(errors="replace").splitlines()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


HERE: Final = (torch.backends.cpu.get_cpu_capability(), _processor_flags(Path("/proc/cpuinfo")))
"""What PyTorch and Linux say of this processor."""
