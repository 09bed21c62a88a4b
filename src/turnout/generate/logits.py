"""What changes logits before a token is chosen. Axes: B rows, M tokens read, V vocabulary."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.generation import GenerateOptions
from turnout.models.cache import Cache


def adjusted(
    logits: Float[Tensor, "B V"], cache: Cache, options: GenerateOptions, position: int
) -> Float[Tensor, "B V"]:
    """The logits of new token ``position``: repetition penalised, then no stop where it is too
    soon for one. ``cache`` knows what the decoder has read."""
    if options.repetition_penalty != 1.0:
        ids, mask = cache.ids[:, : cache.used], cache.mask[:, : cache.used]
        logits = penalised(logits, ids, mask, options.repetition_penalty)
    if position < options.min_new_tokens and options.stop_ids:
        stops = torch.tensor(options.stop_ids, device=logits.device)
        logits = logits.index_fill(1, stops, -torch.inf)
    return logits


def penalised(
    logits: Float[Tensor, "B V"],
    ids: Int[Tensor, "B M"],
    mask: Bool[Tensor, "B M"],
    penalty: float,
) -> Float[Tensor, "B V"]:
    """Logits of the ``ids`` of a row divided by ``penalty`` where positive, multiplied where not.

    CTRL (1909.05858), section 4.1, over prompt and output of a decoder, and over what the decoder
    of an encoder-decoder wrote and its start. A token counts once however often it stands there;
    padding does not count. The last id of a row must be real, unless nobody reads the row.
    """
    seen = torch.where(mask, ids, ids[:, -1:])
    score = logits.gather(1, seen)
    score = torch.where(score > 0, score / penalty, score * penalty)
    return logits.scatter(1, seen, score)
