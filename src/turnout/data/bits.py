"""Bits per byte: the loss in a unit that no vocabulary changes. Axes: B batch, S sequence."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from turnout.data.batch import Batch
from turnout.data.tokenizers import Tokenizer


def count_bytes(
    targets: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], tokenizer: Tokenizer
) -> Int[Tensor, " B"]:
    """Bytes of text that each row's targets stand for."""
    lengths = torch.from_numpy(tokenizer.byte_lengths)
    counts: Int[Tensor, " B"] = (lengths[targets] * mask).sum(1)
    return counts


def text_bytes(batches: Iterable[Batch]) -> int:
    """Bytes of text that the targets stand for; 0 where nobody counted (see ``Batch``)."""
    counted = [batch.text_bytes for batch in batches]
    return sum(int(count.sum()) for count in counted if count is not None)


def bits_per_byte(nats: float, batches: list[Batch]) -> float:
    """Bits of all targets over the bytes of text among them, from the mean nats of a target.

    Ends of text and sentinels cost nats as any target but are no text.
    """
    targets = sum(int(batch.target_mask.sum()) for batch in batches)
    return bits_of_text(nats, targets, text_bytes(batches))


def bits_of_text(nats: float, targets: int, text: int) -> float:
    """``bits_per_byte`` of batches with so many targets and bytes of text."""
    return nats * targets / math.log(2) / max(text, 1)
