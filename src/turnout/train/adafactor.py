"""T5's Adafactor (Shazeer and Stern, 1804.04235), one matrix at a time.

A tensor of more than two dimensions is a list of matrices and a stacked vector is a list of
vectors: scale, clipping and factors belong to each item, so that stacked experts [E, D, F] take
the very step that a list of E experts would take.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from turnout.config.errors import UserError
from turnout.train.ranks import Whole


class Adafactor(Optimizer):
    """Adaptive steps from factored second moments; no momentum, no weight decay.

    With g the gradient, t the number of earlier steps and beta = 1 - (t + 1)^-decay_exponent:
    v <- beta v + (1 - beta)(g^2 + epsilon1), kept as its row and column means when both of the
    last dimensions are at least ``min_factored``; u = g / sqrt(v); u <- u / max(1, RMS(u) /
    clip_threshold); parameter <- parameter - lr max(RMS(parameter), epsilon2) u.

    A parameter group with ``stacked=True`` holds tensors whose first dimension counts experts, so
    that a [E, F] tensor is E vectors and not one matrix. State and arithmetic are float32.

    Where ``whole`` knows a parameter's name, the parameter is a block of that weight: means are
    those of the whole, so that the block takes the step that it would take in there.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        decay_exponent: float = 0.8,
        clip_threshold: float = 1.0,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
        min_factored: int = 128,
        whole: Callable[[str], Whole | None] = lambda name: None,
    ) -> None:
        defaults = {
            "lr": lr,
            "decay_exponent": decay_exponent,
            "clip_threshold": clip_threshold,
            "epsilon1": epsilon1,
            "epsilon2": epsilon2,
            "min_factored": min_factored,
            "stacked": False,
        }
        super().__init__(params, defaults)
        self._whole = whole

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            names = group.get("param_names", [""] * len(group["params"]))
            for name, param in zip(names, group["params"], strict=True):
                if param.grad is not None:
                    whole = self._whole(name) or _Plain(tuple(param.shape))
                    self._update(param, param.grad.float(), group, whole)
        return loss

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any], whole: Whole) -> None:
        state = self.state[param]
        dims = _item_dims(param, bool(group["stacked"]))
        count = int(state.get("step", 0)) + 1
        beta = 1.0 - float(count) ** -float(group["decay_exponent"])
        square = grad.square() + group["epsilon1"]
        factored = len(dims) == 2 and min(whole.shape[-2:]) >= group["min_factored"]
        if count > 1 and ("row" in state) != factored:
            raise UserError(
                f"optimizer.min_factored = {group['min_factored']!r}: must be what the state of "
                "this run was written with, or its second moments would be lost"
            )
        if factored:
            state["row"] = _mix(state.get("row"), whole.mean(square, -1).squeeze(-1), beta)
            state["column"] = _mix(state.get("column"), whole.mean(square, -2).squeeze(-2), beta)
            update = grad * _inverse_root(state["row"], state["column"], whole)
        else:
            state["square"] = _mix(state.get("square"), square, beta)
            update = grad * state["square"].rsqrt()
        state["step"] = count
        excess = (_rms(update, dims, whole) / group["clip_threshold"]).clamp(min=1.0)
        scale = _rms(param.float(), dims, whole).clamp(min=group["epsilon2"])
        param.sub_((update * (group["lr"] * scale / excess)).to(param.dtype))


@dataclass(frozen=True)
class _Plain:
    """A weight that is all here."""

    shape: tuple[int, ...]

    def mean(self, values: Tensor, dim: int) -> Tensor:
        return values.mean(dim, keepdim=True)


def _item_dims(param: Tensor, stacked: bool) -> tuple[int, ...]:
    """The dimensions of one item of the list that a tensor is: its matrix or its vector."""
    inner = max(param.dim() - int(stacked), 0)
    return tuple(range(-min(inner, 2), 0))


def _rms(values: Tensor, dims: tuple[int, ...], whole: Whole) -> Tensor:
    """Root mean square over ``dims``, kept for broadcasting; of each scalar when there are none."""
    if not dims:
        return values.abs()
    mean = values.square()
    for dim in reversed(dims):
        mean = whole.mean(mean, dim)
    return mean.sqrt()


def _mix(old: Tensor | None, new: Tensor, beta: float) -> Tensor:
    """beta old + (1 - beta) new; the first beta is 0, so that a missing ``old`` is exact."""
    return new if old is None else old * beta + new * (1.0 - beta)


def _inverse_root(
    row: Float[Tensor, "*A R"], column: Float[Tensor, "*A C"], whole: Whole
) -> Float[Tensor, "*A R C"]:
    """1 / sqrt(v) for the rank-one v = row column / mean(row) (1804.04235, algorithm 4)."""
    rows = row.unsqueeze(-1)
    share = rows / whole.mean(rows, -2)
    return share.rsqrt() * column.rsqrt().unsqueeze(-2)
