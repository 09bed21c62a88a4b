"""Bad steps: what is not finite, and where."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from turnout.moe.stats import LayerStats

_SUMS = ("probability", "weight", "load", "z", "entropy", "top_probability")


def fault(
    model: nn.Module,
    terms: Mapping[str, float],
    layers: Iterable[tuple[LayerStats, ...]],
    total: float,
    gradient_norm: float,
) -> str:
    """Why a step must be skipped, the guilty terms and layers named; empty when it is sound."""
    if math.isfinite(total) and math.isfinite(gradient_norm):
        return ""
    parts = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    bad = dict.fromkeys(found for stats in layers for layer in stats for found in _bad_sums(layer))
    if bad:
        parts.append(f"first bad router sum: {next(iter(bad))}")
    if not math.isfinite(total) and not parts:
        parts.append(f"the loss is {total}")
    if not parts:
        parts.append(f"the gradient of {_bad_gradient(model)} is not finite")
    return "; ".join(parts)


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients that exist, in the order of the parameters."""
    return [param.grad for param in model.parameters() if param.grad is not None]


def _bad_sums(layer: LayerStats) -> list[str]:
    return [
        f"{layer.name}.{name}"
        for name in _SUMS
        if not bool(torch.isfinite(getattr(layer.router, name)).all())
    ]


def _bad_gradient(model: nn.Module) -> str:
    """The bad one that the backward pass met first: all that lies before it is bad in its wake."""
    for name, param in reversed(list(model.named_parameters())):
        if param.grad is not None and not bool(torch.isfinite(param.grad).all()):
            return name
    return "all parameters together (it overflows)"


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())
