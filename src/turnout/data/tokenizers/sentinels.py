"""What a foreign vocabulary lacks of specials and sentinels is put above its ids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Numbering:
    """The ids of a completed vocabulary.

    Sentinels count from the vocabulary's last id, so its own are used only if none of its specials
    had to be put above them.

    Attributes:
        size: ids of the file.
        specials: ids of padding, end and unknown by name; those above ``size`` are added ones.
        own: sentinels of the file, as ``counted``.
        asked: sentinels to add where the file's own cannot be used.
    """

    size: int
    specials: Mapping[str, int]
    own: int
    asked: int

    @property
    def vocab_size(self) -> int:
        above = max(self.size, 1 + max(self.specials.values()))
        return above if self._keeps_own else above + self.asked

    @property
    def num_sentinels(self) -> int:
        return self.own if self._keeps_own else self.asked

    @property
    def _keeps_own(self) -> bool:
        return self.own > 0 and max(self.specials.values()) < self.size


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
