"""Keeping freed memory in the process, so that every step finds the pages of the one before."""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # <malloc.h>
_MMAP_MAX: Final = -4
_NEVER: Final = -1


def keep_freed_memory() -> bool:
    """Have the C library keep what tensors give back, for the whole process; whether it does.

    By default glibc asks the system for every large tensor and returns it when it is freed. A step
    frees as much as it takes, and the system hands each page out anew, zeroed: for gradients of
    stacked experts that takes longer than computing them (docs/results/layer.md). Afterwards the
    process stays as large as it has been at its largest. Only glibc knows how; call it before
    training.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
