"""Rows in parts that the cache holds, for what widens them to float32 on its way."""

from collections.abc import Iterator

PART = 1 << 18  # elements of a part: 1 MiB in float32


def parts(rows: int, width: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Start and length of each part of the rows, but for the last a multiple of ``multiple``."""
    size = max(PART // max(width, 1) // multiple, 1) * multiple
    return ((start, min(size, rows - start)) for start in range(0, rows, size))
