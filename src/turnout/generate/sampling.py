"""Choosing the next token; randomness is a function of (seed, prompt, position), without state.

Axes: B rows, V vocabulary.
"""

from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from turnout.config.generation import GenerateOptions
from turnout.data.keys import mix


def row_keys(seed: int, prompts: list[list[int]]) -> Int64[np.ndarray, " B"]:
    """A key for each prompt, from its tokens and not from its place in the batch.

    So a prompt is sampled the same alone and among others; when it stands there n times, its
    n samples differ.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    keys = []
    for prompt in prompts:
        tokens = tuple(prompt)
        keys.append(int(mix(seed, seen[tokens], *tokens)))
        seen[tokens] += 1
    return np.array(keys, dtype=np.int64)


def uniform(keys: Int64[np.ndarray, " B"], position: int) -> Float64[Tensor, " B"]:
    """A number in [0, 1) for each row at ``position``: the upper 53 bits of a hash."""
    bits = mix(keys, position).view(np.uint64) >> np.uint64(11)
    return torch.from_numpy(bits.astype(np.float64) * 2.0**-53)


def choose(
    logits: Float[Tensor, "B V"], options: GenerateOptions, draw: Float64[Tensor, " B"] | None
) -> Int[Tensor, " B"]:
    """The next token of each row: the most probable, or the one at ``draw`` of the distribution,
    where there is one and the temperature is not 0.

    Sampling walks the kept tokens from the most probable down and takes the first at which the
    cumulative probability (float64) passes ``draw``.
    """
    if draw is None or options.temperature == 0:
        return logits.argmax(dim=-1)
    scaled = logits.double() / options.temperature
    ranked, token = scaled.sort(stable=True, dim=-1, descending=True)
    if options.top_k is not None:
        rank = torch.arange(ranked.shape[1], device=ranked.device)
        ranked = ranked.masked_fill(rank >= options.top_k, -torch.inf)
    probability = ranked.softmax(-1)
    if options.top_p is not None:
        before = probability.cumsum(-1) - probability
        probability = torch.where(before < options.top_p, probability, 0.0)
    cumulative = probability.cumsum(-1)
    threshold = draw.to(logits.device).unsqueeze(1) * cumulative[:, -1:]
    last_kept = (probability > 0).sum(-1, keepdim=True) - 1
    place = (cumulative <= threshold).sum(-1, keepdim=True).minimum(last_kept)
    return token.gather(1, place).squeeze(1)
