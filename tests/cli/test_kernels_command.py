"""``turnout doctor --build``, and what is said where nothing can be built."""

from collections.abc import Callable
from typing import Any

from tests.kernels.cases import BUILDS

from turnout.kernels import grouped
from turnout.kernels.grouped import GroupedKernels

Turnout = Callable[..., Any]

ARGUMENTS = ("doctor", "--build", "--rows", "64")


def test_what_is_built_is_taken_by_auto(turnout: Turnout) -> None:
    found = [turnout(*ARGUMENTS), turnout("doctor", "--rows", "64")]
    for result in found:
        assert result.code == (0 if BUILDS or result is found[1] else 2)
        assert ("kernels in C++: built\n" in result.out) == BUILDS
        assert result.out.count("auto takes native: built here") == (6 if BUILDS else 0)


def test_without_a_compiler_it_is_one_line(turnout: Turnout, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(grouped, "GROUPED", GroupedKernels("AVX512", frozenset()))
    result = turnout(*ARGUMENTS)
    assert result.code == 2
    assert "no C++ compiler (no-such-compiler): install one, or name it in CXX" in result.err


def test_another_processor_is_told(turnout: Turnout, monkeypatch) -> None:
    monkeypatch.setattr(grouped, "GROUPED", GroupedKernels("AVX2", frozenset()))
    assert "kernels in C++: none; they need AVX-512" in turnout("doctor", "--rows", "64").out
    result = turnout(*ARGUMENTS)
    assert result.code == 2 and "they need AVX-512" in result.err
