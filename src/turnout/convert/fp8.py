"""Weights in 8 bits with a scale for each block, as DeepSeek-V3 is published (2412.19437, 3.3).

A matrix [O, I] of float8 (E4M3) has beside it float32 scales [ceil(O / b), ceil(I / c)] for blocks
of b x c; a weight is its number times the scale of its block.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from turnout.config.errors import UserError

SUFFIX = "_scale_inv"
DEQUANTISED = torch.bfloat16  # 8 significant bits hold E4M3's four; the product is rounded once


def block_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block; None where nothing is quantised.

    Raises:
        UserError: another quantisation.
    """
    found = config.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, Mapping) else found
    block = found.get("weight_block_size") if isinstance(found, Mapping) else None
    sizes = block if isinstance(block, list) else []
    whole = len(sizes) == 2 and all(type(size) is int and size >= 1 for size in sizes)
    if method != "fp8" or not whole:
        raise UserError(
            f"config.json: quantization_config.quant_method = {method!r}: must be 'fp8' with a "
            "weight_block_size; save the model without quantisation first"
        )
    return sizes[0], sizes[1]


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
