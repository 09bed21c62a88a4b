"""What a processor must have for the kernels, and what is said where it has not."""

import pytest
import torch

from turnout.config.errors import ConfigError, UserError
from turnout.kernels import library
from turnout.kernels.grouped import GROUPED, GroupedKernels
from turnout.moe.products import ProductShape, grouped_product, usable


def test_another_processor_has_none(monkeypatch):
    none = GroupedKernels("AVX2", frozenset())
    assert none.dtypes == none.preferred == frozenset()
    with pytest.raises(UserError, match=r"kernels in C\+\+: they need AVX-512"):
        none.prefer()
    monkeypatch.setattr(GROUPED, "dtypes", none.dtypes)
    assert not usable("native", ProductShape(64, 4, 8, 16, torch.float32, "cpu"))
    rows, weight = torch.randn(4, 8), torch.randn(1, 8, 16)
    with pytest.raises(ConfigError, match=r"moe.product = 'native'.*'auto' chooses one"):
        grouped_product(rows, weight, torch.tensor([4], dtype=torch.int32), "native")


def test_bfloat16_needs_its_instructions():
    assert GroupedKernels("AVX512", frozenset()).dtypes == {torch.float32}
    assert GroupedKernels("AVX512", frozenset({"avx512_bf16"})).dtypes == {
        torch.float32,
        torch.bfloat16,
    }


def test_flags_of_a_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id : X\nflags\t\t: fpu avx512_bf16\nflags : other\n")
    assert library._processor_flags(tmp_path / "cpuinfo") == {"fpu", "avx512_bf16"}
    assert library._processor_flags(tmp_path / "absent") == frozenset()
