"""Sentinels that a foreign vocabulary brings along."""

from collections.abc import Callable


def counted(find: Callable[[str], int | None], size: int, unknown: int) -> int:
    """How many of ``<extra_id_0>``, ``<extra_id_1>``, .. are the last ids, counting downwards.

    Sentinels in any other place are not used as such.

    Args:
        find: the id of a token; ``unknown`` or None where there is none.
        size: ids of the vocabulary.
        unknown: id of the unknown token, or -1.
    """
    number = 0
    while number < size and find(f"<extra_id_{number}>") == size - 1 - number != unknown:
        number += 1
    return number
