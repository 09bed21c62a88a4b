"""Bad steps: what is not finite, and where."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from turnout.moe.stats import LayerStats

_SUMS = ("probability", "weight", "load", "z", "entropy", "top_probability")


def found_bad(
    weights: Mapping[str, Tensor],
    terms: Mapping[str, float],
    layers: Iterable[tuple[LayerStats, ...]],
    total: float,
) -> str:
    """What is not finite here, the guilty terms and layers named; empty when all is."""
    parts = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    bad = dict.fromkeys(found for stats in layers for layer in stats for found in _bad_sums(layer))
    if bad:
        parts.append(f"first bad router sum: {next(iter(bad))}")
    if not math.isfinite(total) and not parts:
        parts.append(f"the loss is {total}")
    if not parts:
        parts = [f"the gradient of {name} is not finite" for name in _bad_gradients(weights)[:1]]
    return "; ".join(parts)


def _bad_sums(layer: LayerStats) -> list[str]:
    return [
        f"{layer.name}.{name}"
        for name in _SUMS
        if not bool(torch.isfinite(getattr(layer.router, name)).all())
    ]


def _bad_gradients(weights: Mapping[str, Tensor]) -> list[str]:
    """First the one that the backward pass met first: all that lies before it is bad in its
    wake."""
    return [
        name
        for name, weight in reversed(list(weights.items()))
        if weight.grad is not None and not bool(torch.isfinite(weight.grad).all())
    ]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())
