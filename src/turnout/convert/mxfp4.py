"""Experts in 4 bits with a scale for 32 of them, as gpt-oss is published: the format MXFP4 of the
Open Compute Project's Microscaling Formats 1.0 (2310.10537).

A weight is one of 16 numbers (E2M1: a sign, two bits of exponent, one of mantissa) times a power of
two (E8M0: the exponent plus 127; 255 stands for NaN). Matrices [O, I] of E experts lie in
``*_blocks`` [E, O, I / 32, 16], bytes of two numbers, the one in the low four bits first, and
``*_scales`` [E, O, I / 32]. Checkpoints without quantisation have them the other way round,
[E, I, O], and so has what is read here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import BFloat16, Int32, UInt8
from torch import Tensor

from turnout.checkpoint.stream import read_tensor
from turnout.config.errors import UserError
from turnout.convert.stored import Place, Places, Quantised, Stored

BLOCKS, SCALES = "_blocks", "_scales"
BYTES = 16  # of a block
NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # codes 0 .. 7; 8 .. 15 are their negatives
BIAS, NOT_A_NUMBER = 127, 255
FINITE = 252  # the largest scale under which all are: 6 times 2^125 is below 2^128
DEQUANTISED = torch.bfloat16  # has E8M0's exponents and more than E2M1's two significant bits


@final
@dataclass(frozen=True)
class Fp4Experts(Stored):
    """Matrices of all experts; an expert at a time is in memory beside what it becomes."""

    name: str
    blocks: Place
    scales: Place

    @property
    def dtype(self) -> torch.dtype:
        return DEQUANTISED

    @property
    def shape(self) -> tuple[int, ...]:
        experts, outputs, groups, size = self.blocks[1].shape
        return experts, 2 * size * groups, outputs

    def read(self) -> Tensor:
        whole = torch.empty(self.shape, dtype=DEQUANTISED)
        for number, matrix in enumerate(self.entries()):
            whole[number] = matrix
        return whole

    def entries(self) -> Iterator[Tensor]:
        """Raises UserError where a weight is NaN or infinite."""
        table = products()
        for expert in range(self.shape[0]):
            blocks, scales = (
                read_tensor(path, place.entry(expert)) for path, place in (self.blocks, self.scales)
            )
            where = f"{self.scales[0]}: {self.name + SCALES}, expert {expert}"
            if (scales == NOT_A_NUMBER).any():
                raise UserError(f"{where}: holds a scale of 255, which stands for NaN")
            matrix = decoded(blocks, scales, table)
            largest = int(scales.max())
            if largest > FINITE and not matrix.isfinite().all():
                raise UserError(f"{where}: holds a scale of {largest}: infinite weights")
            yield matrix.T


def mxfp4(folder: Path, table: Mapping[str, Any], places: Places) -> Quantised:
    """The quantised weights; ``table`` adds nothing to what the tensors say.

    Raises:
        UserError: blocks or scales lack the other, or are not of bytes and the shapes that fit.
    """
    stems = sorted(
        {
            name.removesuffix(end)
            for name in places
            for end in (BLOCKS, SCALES)
            if name.endswith(end)
        }
    )
    weights: dict[str, Stored] = {}
    for stem in stems:
        for one, other in ((BLOCKS, SCALES), (SCALES, BLOCKS)):
            if stem + one not in places:
                raise UserError(f"{folder}: holds {stem + other} and no {stem + one}")
        if stem in places:
            raise UserError(f"{folder}: holds {stem} both whole and in blocks")
        _check(folder, stem, places)
        weights[stem] = Fp4Experts(stem, places[stem + BLOCKS], places[stem + SCALES])
    parts = frozenset(stem + end for stem in stems for end in (BLOCKS, SCALES))
    note = (
        f"{len(weights)} weights in 4 bits (MXFP4) become bfloat16, which holds them exactly in "
        "nearly four times the room, and stay so on the way back"
    )
    return Quantised(weights, parts, note if weights else "")


def products() -> Int32[Tensor, " 65536"]:
    """The two weights of every byte under every scale, at 256 * scale + byte, the pair as one whole
    number; NaN under the scale 255."""
    numbers = torch.tensor([*NUMBERS, *(-number for number in NUMBERS)], dtype=torch.float64)
    scales = [2.0 ** (scale - BIAS) for scale in range(NOT_A_NUMBER)] + [float("nan")]
    byte = torch.arange(256)
    pairs = torch.stack((numbers[byte & 15], numbers[byte >> 4]), dim=1).flatten()
    table = torch.tensor(scales, dtype=torch.float64).outer(pairs).to(DEQUANTISED)
    return table.view(torch.int32).flatten()


def decoded(
    blocks: UInt8[Tensor, "O G 16"], scales: UInt8[Tensor, "O G"], table: Int32[Tensor, " 65536"]
) -> BFloat16[Tensor, "O I"]:
    """The weights, I = 32 G; ``table`` is that of ``products``."""
    places = blocks.int() + 256 * scales.int().unsqueeze(-1)
    return table.index_select(0, places.flatten()).view(DEQUANTISED).view(len(blocks), -1)


def _check(folder: Path, stem: str, places: Places) -> None:
    """Raises UserError unless blocks and scales fit each other."""
    blocks, scales = (places[stem + end][1] for end in (BLOCKS, SCALES))
    for end, place in ((BLOCKS, blocks), (SCALES, scales)):
        if place.dtype != torch.uint8:
            raise UserError(f"{folder}: {stem + end} is {place.dtype}, must be torch.uint8")
    if len(blocks.shape) != 4 or blocks.shape[3] != BYTES:
        raise UserError(
            f"{folder}: {stem + BLOCKS} is {list(blocks.shape)}, must be [experts, outputs, "
            f"inputs / 32, {BYTES}]"
        )
    if scales.shape != blocks.shape[:3]:
        raise UserError(
            f"{folder}: {stem + SCALES} is {list(scales.shape)}, must be {list(blocks.shape[:3])}"
        )
