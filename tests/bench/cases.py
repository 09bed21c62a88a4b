"""A result by hand."""

from turnout.bench.suite import Result, Row


def row(**changed):
    """One contest: dense took 1, 2 and 2 ms, ours 3, 4 and 2."""
    given = {
        "suite": "layer",
        "facts": {"dtype": "float32", "mode": "forward", "E": 8},
        "dtype": "float32",
        "bases": ("dense", "turnout"),
        "parts": 1,
        "unit": "ms",
        "seconds": {"dense": (0.001, 0.002, 0.002), "turnout": (0.003, 0.004, 0.002)},
        "differences": {"turnout": 2e-6},
        "flops": {"dense": 1_000_000, "turnout": 1_000_000},
        "left_out": {"other": "no room"},
        "cells": {"turnout": {"floor, ms": 0.5}},
        "peak": (1e9, 2e9, 3e9),
        "bandwidth": (4e9, 5e9, 6e9),
    }
    return Row(**{**given, **changed})


def result(*rows):
    """A run of these rows."""
    machine = {
        "processor": "A processor",
        "system": "Linux",
        "capability": "AVX2",
        "cores": 2,
        "threads": 1,
        "freed_memory": "kept",
        "kernels": ["float32"],
        "versions": {"torch": "2.13.0"},
        "date": "2026-01-01",
    }
    return Result("layer", "turnout bench layer", {"repeats": 3}, machine, rows or (row(),))
