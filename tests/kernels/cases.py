"""Whether kernels can be built on this machine, and what can be tested on it."""

import shutil

import pytest

from turnout.kernels.grouped import GROUPED
from turnout.kernels.operators import FEW_ROWS
from turnout.moe.product_backends import BACKENDS
from turnout.nn import onednn, packed

BUILDS = not GROUPED.missing and any(map(shutil.which, ("g++", "clang++")))
PRODUCTS = sorted(name for name in BACKENDS if BUILDS or name != "native")
PACKINGS = ("onednn", "kernels") if BUILDS else ("onednn",)


def pack_everything(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """Matrices of any size are packed, on any processor, by one of ``PACKINGS``."""
    monkeypatch.setattr(packed, "WIDE", onednn.available())
    monkeypatch.setattr(onednn, "SMALL", 0)
    if by == "kernels":
        FEW_ROWS.load()
        monkeypatch.setattr(FEW_ROWS, "preferred", FEW_ROWS.dtypes)
