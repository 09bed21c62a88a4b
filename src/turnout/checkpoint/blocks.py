"""Blocks of tensors: where they lie, what two share, and whether some fill a whole. No torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A box in a tensor: its first entry and its size along each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @staticmethod
    def whole(shape: Sequence[int]) -> "Block":
        """All of a tensor of that shape."""
        return Block((0,) * len(shape), tuple(shape))

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def ends(self) -> tuple[int, ...]:
        """One past the last entry along each dimension."""
        return tuple(a + b for a, b in zip(self.offset, self.shape, strict=True))

    def text(self) -> str:
        """``[0:4, 8:16]``; ``[]`` for the one entry of a scalar."""
        spans = zip(self.offset, self.ends, strict=True)
        return f"[{', '.join(f'{start}:{end}' for start, end in spans)}]"

    def shared(self, other: "Block") -> "Block | None":
        """What lies in both; None if that is nothing."""
        starts = tuple(map(max, self.offset, other.offset))
        sizes = tuple(
            min(a, b) - start for a, b, start in zip(self.ends, other.ends, starts, strict=True)
        )
        return Block(starts, sizes) if all(size > 0 for size in sizes) else None

    def within(self, other: "Block") -> tuple[slice, ...]:
        """The slices of ``other``'s own entries that this block is."""
        return tuple(
            slice(start - origin, start - origin + size)
            for start, origin, size in zip(self.offset, other.offset, self.shape, strict=True)
        )


def fault_of(shape: Sequence[int], blocks: Sequence[Block]) -> str | None:
    """What is wrong with blocks that should fill a tensor once; None if they do.

    They do if each lies inside, no two share an entry, and their sizes add up to the whole's.
    """
    whole = Block.whole(shape)
    if not whole.size:
        return None if blocks else "has no piece"
    for block in blocks:
        if len(block.shape) != len(whole.shape) or not _inside(block, whole):
            return f"has a piece {block.text()} outside its shape {list(shape)}"
    found = sum(block.size for block in blocks)
    pair = _overlapping([block for block in blocks if block.size])
    if pair is not None:
        hole = " and leave a hole" if found <= whole.size else ""
        return f"has pieces {pair[0].text()} and {pair[1].text()} that overlap{hole}"
    if found != whole.size:
        return (
            f"has pieces that do not fill its shape {list(shape)}: "
            f"{whole.size - found:,} of {whole.size:,} entries are in none"
        )
    return None


def runs(shape: Sequence[int], most: int) -> Iterator[Block]:
    """Blocks of at most ``most`` entries (or one), in the order that a file holds entries in.

    Each is contiguous in a row-major tensor of that shape.
    """
    whole = Block.whole(shape)
    if not whole.size:
        return
    if whole.size <= max(most, 1):
        yield whole
        return
    rows, inner = shape[0], whole.size // shape[0]
    step = most // inner
    for start in range(0, rows, max(step, 1)):
        if step:
            count = min(step, rows - start)
            yield Block((start, *whole.offset[1:]), (count, *whole.shape[1:]))
        else:
            for part in runs(shape[1:], most):
                yield Block((start, *part.offset), (1, *part.shape))


def _inside(block: Block, whole: Block) -> bool:
    return all(
        start >= 0 and end <= size
        for start, end, size in zip(block.offset, block.ends, whole.shape, strict=True)
    )


def _overlapping(blocks: Sequence[Block]) -> tuple[Block, Block] | None:
    """Two that share an entry.

    Swept along the dimension with the most distinct starts: those of n ranks on a mesh are
    compared with few others, not with all n.
    """
    if len(blocks) < 2:
        return None
    if not blocks[0].shape:
        return blocks[0], blocks[1]
    dim = max(range(len(blocks[0].shape)), key=lambda d: len({b.offset[d] for b in blocks}))
    active: list[Block] = []
    for block in sorted(blocks, key=lambda each: each.offset[dim]):
        active = [each for each in active if each.ends[dim] > block.offset[dim]]
        for each in active:
            if each.shared(block):
                return each, block
        active.append(block)
    return None
