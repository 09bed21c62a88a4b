"""One metered training step of one rank: of a real group, or of a fake one."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree

from turnout.config.train import RunConfig
from turnout.data.batch import Batch
from turnout.objectives import LanguageObjective
from turnout.simulate.collectives import Calls, counted
from turnout.simulate.live import Kind, storage_bytes
from turnout.simulate.meter import Meter
from turnout.train.counts import Counts
from turnout.train.state import TrainState
from turnout.train.step import optimiser_step


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank.

    ``weights``, ``gradients`` and ``optimiser`` are those of its shards, padding included. The next
    four are what a micro-batch has made when its backward pass begins, where that is most:
    ``gathered`` weights in one piece, ``casts`` of them in the dtype of the computation, rows that
    travel to experts and the tables that lead them, and everything else. ``peak`` is the most that
    was alive at once.
    """

    weights: int
    gradients: int
    optimiser: int
    gathered: int
    casts: int
    dispatch: int
    activations: int
    peak: int

    def components(self) -> dict[str, int]:
        """All of it, by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class StepCost:
    """What one step takes of one rank."""

    memory: Memory
    collectives: tuple[Calls, ...]
    flops: int


def metered_step(
    state: TrainState,
    objective: LanguageObjective,
    run: RunConfig,
    batches: list[Batch],
    meter: Meter,
) -> StepCost:
    """Take one step as the trainer does, and count it: one behind the first, before which the
    optimiser has no state.

    Args:
        batches: the micro-batches of all ranks.
        meter: knows of the model's dispatchers.
    """
    _make_optimiser_state(state)
    live = meter.live
    gradients = list[int]()

    def before(optimizer: Optimizer, *_: object) -> None:
        gradients.append(storage_bytes(_gradients(state)))
        live.rename(_gradients(state), "gradients")

    hook = state.optimizer.register_step_pre_hook(before)
    live.rename(state.weights.values(), "weights")
    live.rename(_optimiser(state), "optimiser")
    live.rename(_tensors(batches), "batch")
    with meter:
        own = state.ranks.share(batches)
        turn = state.ranks.turn(lambda: Counts.numbers(objective, own), Counts.NUMBERS, 0)
        optimiser_step(state, objective, own, run, Counts.of(turn.numbers, len(own)))
    hook.remove()
    kept: Counter[Kind] = meter.kept
    memory = Memory(
        weights=storage_bytes(state.weights.values()),
        gradients=gradients[0] if gradients else 0,
        optimiser=storage_bytes(_optimiser(state)),
        gathered=kept["gathered"],
        casts=kept["casts"],
        dispatch=kept["dispatch"],
        activations=kept["activations"],
        peak=live.most,
    )
    return StepCost(memory, counted(meter.calls), meter.flops)


def _make_optimiser_state(state: TrainState) -> None:
    """By an update with gradients of zero that changes no weight."""
    groups = state.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
    for group in groups:  # a weight that is frozen would keep its gradient
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def _gradients(state: TrainState) -> list[Tensor]:
    return [weight.grad for weight in state.weights.values() if weight.grad is not None]


def _optimiser(state: TrainState) -> list[Tensor]:
    return _tensors([dict(each) for each in state.optimizer.state.values()])


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
