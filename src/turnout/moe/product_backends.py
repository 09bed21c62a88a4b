"""How the grouped product is computed: one function a backend, and one for the weights' gradient.

Plain functions of tensors, behind the operators of ``products``. Axes: N rows, E experts, D inner
width, F outer width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from turnout.config.moe import ProductName
from turnout.kernels.grouped import GROUPED
from turnout.nn import onednn
from turnout.nn.reuse import GRADIENTS


def _ends(offsets: Tensor) -> list[int]:
    return [int(end) for end in offsets.tolist()]


def _slices(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    ends = _ends(offsets)
    out = rows.new_empty(rows.shape[0], weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), ends, strict=True):
        if end > start:
            torch.mm(rows[start:end], matrix, out=out[start:end])
        start = end
    out[start:].zero_()
    return out


def _slices_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    out = gradient_room(rows, grad, offsets, dtype)
    start = 0
    for matrix, end in zip(out.unbind(0), _ends(offsets), strict=True):
        if end > start:
            _mm_into(rows[start:end].t(), grad[start:end], matrix)
        else:
            matrix.zero_()
        start = end
    return out


def gradient_room(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for the gradient of the weights."""
    shape = offsets.shape[0], rows.shape[1], grad.shape[1]
    if rows.device.type == "cpu":
        return GRADIENTS.empty(shape, dtype)
    return rows.new_empty(shape, dtype=dtype)


def _mm_into(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:  # one expert's at a time: from the cache to its place
        out.copy_(left @ right)


def _rounded(rows: int, most: int) -> int:
    return min(onednn.kernel_size(rows), most)


def kernel_rows(rows: int, dtype: torch.dtype, device: str) -> int:
    """Rows to give a dense product so that its kernel is met again: see ``choose``."""
    rounds = device == "cpu" and dtype in (torch.bfloat16, torch.float16)
    rounds = rounds or onednn.takes(dtype, device, onednn.SMALL)
    return _rounded(rows, 2 * rows + 8) if rounds else rows


def _window(rows: Tensor, start: int, end: int, size: int) -> Tensor:
    """A copy of ``rows[start:end]`` with zero rows behind, ``size`` in all."""
    out = rows.new_empty(size, rows.shape[1])
    out[: end - start] = rows[start:end]
    out[end - start :].zero_()
    return out


def _rounded_slices(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    total = rows.shape[0]
    out = rows.new_empty(total, weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), _ends(offsets), strict=True):
        size = _rounded(end - start, total)
        if start + size > total:
            out[start:end] = torch.mm(_window(rows, start, end, size), matrix)[: end - start]
        elif end > start:
            # What is written past ``end`` belongs to later experts, or to nobody, and is
            # overwritten below.
            torch.mm(rows[start : start + size], matrix, out=out[start : start + size])
        start = end
    out[start:].zero_()
    return out


def _onednn(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    total = rows.shape[0]
    out = rows.new_empty(total, weight.shape[2])
    start = 0
    for matrix, end in zip(weight.unbind(0), _ends(offsets), strict=True):
        if end > start:
            size = _rounded(end - start, total)
            if start + size > total:
                window = _window(rows, start, end, size)
            else:
                window = rows[start : start + size]
            out[start:end] = onednn.product(window, matrix)[: end - start]
        start = end
    out[start:].zero_()
    return out


Into = Callable[[Tensor, Tensor, Tensor], object]  # the product of two, written into the third


def _windows_outer(
    rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype, into: Into
) -> Tensor:
    out, ends = gradient_room(rows, grad, offsets, dtype), _ends(offsets)
    start = 0
    for matrix, end in zip(out.unbind(0), ends, strict=True):
        span = (start, end, _rounded(end - start, rows.shape[0]))
        if end > start:
            left, right = _windows(rows, grad, span, ends[-1])
            into(left.t(), right, matrix)
        else:
            matrix.zero_()
        start = end
    return out


def _windows(
    rows: Tensor, grad: Tensor, span: tuple[int, int, int], live: int
) -> tuple[Tensor, Tensor]:
    """Both with zeros behind an expert's rows; of the wider one rows of later experts may stand
    there instead, which the other's zeros take out of the sum without a copy of it."""
    start, end, size = span
    if size == end - start:
        return rows[start:end], grad[start:end]
    if start + size > live:
        return _window(rows, *span), _window(grad, *span)
    if rows.shape[1] < grad.shape[1]:
        return _window(rows, *span), grad[start : start + size]
    return rows[start : start + size], _window(grad, *span)


def _rounded_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    return _windows_outer(rows, grad, offsets, dtype, _mm_into)


def _onednn_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    return _windows_outer(
        rows, grad, offsets, dtype, lambda a, b, out: out.copy_(onednn.product(a, b))
    )


def _grouped_mm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    if rows.shape[0] == 0:  # the kernel refuses the strides of an empty tensor
        return rows.new_zeros(0, weight.shape[2])
    out = F.grouped_mm(rows, weight, offs=offsets)
    # The kernel leaves rows past the last offset uninitialised.
    past = torch.arange(rows.shape[0], device=rows.device) >= offsets[-1]
    return out.masked_fill_(past.unsqueeze(1), 0)


def _grouped_mm_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    if rows.shape[0] == 0:
        return gradient_room(rows, grad, offsets, dtype).zero_()
    return F.grouped_mm(rows.t(), grad, offs=offsets).to(dtype)


def _padded(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as [E, M, D] with zeros behind each expert's last, and where each row went."""
    ends = _ends(offsets)
    starts = [0, *ends[:-1]]
    longest = max((e - s for s, e in zip(starts, ends, strict=True)), default=0)
    total = ends[-1] if ends else 0
    place = torch.cat(
        [
            torch.arange(e * longest, e * longest + end - start, device=rows.device)
            for e, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
    )
    padded = rows.new_zeros(len(ends) * longest, rows.shape[1])
    padded[place] = rows[:total]
    return padded.view(len(ends), longest, rows.shape[1]), place


def _padded_bmm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    padded, place = _padded(rows, offsets)
    product = torch.bmm(padded, weight).flatten(0, 1)
    out = rows.new_zeros(rows.shape[0], weight.shape[2])
    out[: place.shape[0]] = product.index_select(0, place)
    return out


def _padded_bmm_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    padded, _ = _padded(rows, offsets)
    padded_grad, _ = _padded(grad, offsets)
    return torch.bmm(padded.transpose(1, 2), padded_grad).to(dtype)


def _native(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return GROUPED.product(rows, weight, offsets)


def _native_outer(rows: Tensor, grad: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    wide = rows.dtype == torch.float32  # whose sums are not rounded before they are done
    out = gradient_room(rows, grad, offsets, torch.float32 if wide else dtype)
    GROUPED.outer(rows, grad, offsets, out)
    return out.to(dtype)


@dataclass(frozen=True)
class Backend:
    """A product and its outer product (the weights' gradient)."""

    product: Callable[[Tensor, Tensor, Tensor], Tensor]
    outer: Callable[[Tensor, Tensor, Tensor, torch.dtype], Tensor]


BACKENDS: dict[ProductName, Backend] = {
    "slices": Backend(_slices, _slices_outer),
    "rounded": Backend(_rounded_slices, _rounded_outer),
    "onednn": Backend(_onednn, _onednn_outer),
    "grouped_mm": Backend(_grouped_mm, _grouped_mm_outer),
    "padded_bmm": Backend(_padded_bmm, _padded_bmm_outer),
    "native": Backend(_native, _native_outer),
}
