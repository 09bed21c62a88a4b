"""Losses over the whole batch, exact however it is cut: linearised at the whole batch's sums.

A loss phi of sums S over all micro-batches and ranks has, by the chain rule, the gradient of
``<c, S_local>`` summed over the parts, with ``c = d phi / d S`` at the whole batch's sums. So each
part backpropagates that inner product, and none needs another's graph. Averaging the parts' own
losses is a different function: on domain-sorted text it more than doubles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree

from turnout.moe.losses import LossSums
from turnout.moe.stats import LayerStats
from turnout.pytree import pytree

Phi = Callable[[LossSums], Float[Tensor, " G"]]


@pytree()
@dataclass(frozen=True)
class StepSums:
    """The sums of every sparse layer over a whole step: one row, float64, without gradient."""

    layers: tuple[LossSums, ...]

    @staticmethod
    def collect(parts: Sequence[Sequence[LayerStats]]) -> "StepSums":
        """Adds the layers' statistics over micro-batches."""
        return StepSums(
            tuple(
                _added([whole(LossSums.of(stats)) for stats in layer])
                for layer in zip(*parts, strict=True)
            )
        )


def whole(sums: LossSums) -> LossSums:
    """All rows added into one, the float sums in float64."""
    return LossSums(
        tokens=sums.tokens.sum(0, keepdim=True),
        assigned=sums.assigned.sum(0, keepdim=True),
        first_choice=sums.first_choice.sum(0, keepdim=True),
        probability=sums.probability.double().sum(0, keepdim=True),
        weight=sums.weight.double().sum(0, keepdim=True),
        load=sums.load.double().sum(0, keepdim=True),
    )


def linearised(phi: Phi, local: LossSums, at: LossSums, tokens: int) -> Float[Tensor, ""]:
    """This part's share of ``phi`` over a step of ``tokens`` tokens, float32.

    The shares of all parts add up to ``phi(at) + <c, S - at>``, which is ``phi`` itself when
    ``at`` are the step's own sums. Sums of another step (scope ``previous``) are first scaled to
    this step's number of tokens; phi depends on shares alone, so its value does not change.

    Args:
        local: this part's sums, a row a group, with gradient.
        at: one row, the sums at which phi is linearised.
    """
    if tokens == 0:
        return local.probability.new_zeros(())
    here = whole(local)
    scale = tokens / at.tokens.sum().clamp(min=1).double()
    point = [(values.detach().double() * scale).requires_grad_() for values in _floats(at)]
    with torch.enable_grad():
        scaled = LossSums(
            tokens=at.tokens * scale,
            assigned=at.assigned * scale,
            first_choice=at.first_choice * scale,
            probability=point[0],
            weight=point[1],
            load=point[2],
        )
        value = phi(scaled).sum()
        slopes = torch.autograd.grad(value, point, allow_unused=True, materialize_grads=True)
    inner = _inner(slopes, _floats(here))
    constant = value.detach() - _inner(slopes, tuple(where.detach() for where in point))
    share = here.tokens.sum().double() / tokens
    return (inner + constant * share).float()


def _inner(slopes: Sequence[Tensor], sums: Sequence[Tensor]) -> Float[Tensor, ""]:
    """``<c, S>`` over all sums."""
    return torch.stack([(c * s).sum() for c, s in zip(slopes, sums, strict=True)]).sum()


def _floats(sums: LossSums) -> tuple[Tensor, Tensor, Tensor]:
    return sums.probability, sums.weight, sums.load


def _added(parts: Sequence[LossSums]) -> LossSums:
    def added(*values: Tensor) -> Tensor:
        return torch.stack([value.detach() for value in values]).sum(0)

    total: LossSums = _pytree.tree_map(added, *parts)
    return total
