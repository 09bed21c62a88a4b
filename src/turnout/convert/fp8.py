"""Weights in 8 bits with a scale for each block, as DeepSeek-V3 is published (2412.19437, 3.3).

A matrix [O, I] of float8 (E4M3) has beside it float32 scales [ceil(O / b), ceil(I / c)] for blocks
of b x c; a weight is its number times the scale of its block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.checkpoint.stream import read_tensor
from turnout.config.errors import UserError
from turnout.convert.stored import Place, Places, Quantised, Stored

SUFFIX = "_scale_inv"
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
DEQUANTISED = torch.bfloat16  # 8 significant bits hold E4M3's four; the product is rounded once


@final
@dataclass(frozen=True)
class Fp8Matrix(Stored):
    """A matrix and the scales of its blocks."""

    weight: Place
    scales: Place
    block: tuple[int, int]

    @property
    def dtype(self) -> torch.dtype:
        return DEQUANTISED

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight[1].shape

    def read(self) -> Tensor:
        return dequantise(read_tensor(*self.weight), read_tensor(*self.scales), self.block)

    def entries(self) -> Iterator[Tensor]:
        yield from self.read()


def fp8(folder: Path, table: Mapping[str, Any], places: Places) -> Quantised:
    """The quantised weights by a ``quantization_config``.

    Raises:
        UserError: it has no sizes of blocks, or a weight is no matrix with as many scales as it
            has blocks.
    """
    block = _block(table)
    weights: dict[str, Stored] = {}
    for name, (path, place) in places.items():
        scales = places.get(name + SUFFIX)
        if scales is None and place.dtype not in EIGHT_BITS:
            continue
        if len(place.shape) != 2 or scales is None:
            raise UserError(f"{folder}: {name} has 8 bits and no {name + SUFFIX} for its blocks")
        wanted = scale_shape(place.shape, block)
        if scales[1].shape != wanted:
            raise UserError(
                f"{folder}: {name + SUFFIX} is {list(scales[1].shape)}, must be {list(wanted)}"
            )
        weights[name] = Fp8Matrix((path, place), scales, block)
    note = (
        f"{len(weights)} weights in 8 bits become bfloat16, rounded once, and stay so on the way "
        "back"
    )
    parts = frozenset(name + end for name in weights for end in ("", SUFFIX))
    return Quantised(weights, parts, note if weights else "")


def scale_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """Of the scales of a matrix of ``shape``."""
    return tuple(-(-size // each) for size, each in zip(shape, block, strict=True))


def dequantise(
    weight: Float[Tensor, "O I"], scales: Float[Tensor, "P Q"], block: tuple[int, int]
) -> Float[Tensor, "O I"]:
    """The weights, in bfloat16."""
    rows, columns = weight.shape
    spread = scales.float().repeat_interleave(block[0], 0)[:rows]
    spread = spread.repeat_interleave(block[1], 1)[:, :columns]
    return (weight.float() * spread).to(DEQUANTISED)


def _block(table: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block."""
    found = table.get("weight_block_size")
    sizes = found if isinstance(found, list) else []
    if len(sizes) != 2 or not all(type(size) is int and size >= 1 for size in sizes):
        raise UserError(
            f"config.json: quantization_config.weight_block_size = {found!r}: must be the rows and "
            "columns of a block with quant_method 'fp8'; save the model without quantisation first"
        )
    return sizes[0], sizes[1]
