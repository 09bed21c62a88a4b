"""Losses over the whole batch, exact however it is cut: linearised at the whole batch's sums.

A loss phi of sums S over all micro-batches and ranks has, by the chain rule, the gradient of
``<c, S_local>`` summed over the parts, with ``c = d phi / d S`` at the whole batch's sums. So each
part backpropagates that inner product, and none needs another's graph. Averaging the parts' own
losses is a different function: on domain-sorted text it more than doubles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

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
    seen = int(at.tokens.sum())
    if tokens == 0 or seen == 0:
        return local.probability.new_zeros(())
    here = whole(local)
    scale = tokens / seen
    point = [(values.detach().double() * scale).requires_grad_() for values in _floats(at)]
    with torch.enable_grad():
        scaled = replace(
            at,
            tokens=at.tokens * scale,
            assigned=at.assigned * scale,
            first_choice=at.first_choice * scale,
            probability=point[0],
            weight=point[1],
            load=point[2],
        )
        value = phi(scaled).sum()
        slopes = torch.autograd.grad(value, point, allow_unused=True, materialize_grads=True)
    inner = sum(
        ((slope * part).sum() for slope, part in zip(slopes, _floats(here), strict=True)),
        value.new_zeros(()),
    )
    constant = value.detach() - sum(
        (float((slope * where.detach()).sum()) for slope, where in zip(slopes, point, strict=True)),
        0.0,
    )
    share = here.tokens.sum().double() / tokens
    return (inner + constant * share).float()


def _floats(sums: LossSums) -> tuple[Tensor, Tensor, Tensor]:
    return sums.probability, sums.weight, sums.load


def _added(parts: Sequence[LossSums]) -> LossSums:
    return LossSums(
        tokens=torch.stack([part.tokens for part in parts]).sum(0),
        assigned=torch.stack([part.assigned for part in parts]).sum(0),
        first_choice=torch.stack([part.first_choice for part in parts]).sum(0),
        probability=torch.stack([part.probability.detach() for part in parts]).sum(0),
        weight=torch.stack([part.weight.detach() for part in parts]).sum(0),
        load=torch.stack([part.load.detach() for part in parts]).sum(0),
    )
