"""What training changes and a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree

from turnout.checkpoint.format import Checkpoint, CheckpointError
from turnout.checkpoint.read import load, match, shortened
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.objectives import StepSums
from turnout.train.average import Average, start_average
from turnout.train.control import Control
from turnout.train.optim import build_optimizer
from turnout.train.optim_state import export_state, restore_state, untrained_parameters

_MODEL, _OPTIMIZER, _SUMS, _AVERAGE = "model.", "optimizer.", "sums.", "average."


@dataclass
class TrainState:
    """The one thing a trainer changes.

    Attributes:
        model: float32 parameters.
        optimizer: over the parameters that train.
        step: optimiser steps done, skipped ones included.
        tokens: real tokens seen, all stacks.
        sums: the last step's sums, what losses of scope ``previous`` are computed from.
        average: the moving average of the weights, where the run keeps one.
        control: what the loop decides by.
    """

    model: Model
    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    sums: StepSums | None = None
    average: Average | None = None
    control: Control = field(default_factory=Control)

    @staticmethod
    def fresh(run: RunConfig, model: Model) -> "TrainState":
        """At step 0; ``model`` already has its first weights."""
        average = start_average(model) if run.train.average > 0 else None
        return TrainState(model, build_optimizer(run.optimizer, model), average=average)


def model_tensors(model: Model) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied tensor once, under its first name."""
    seen: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            found[name] = tensor
    return found


def export(state: TrainState, run: RunConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything a checkpoint holds: tensors by global name, and JSON."""
    optimizer, scalars = export_state(state.optimizer)
    leaves, spec = _pytree.tree_flatten(state.sums)
    tensors = {
        **{_MODEL + name: tensor for name, tensor in model_tensors(state.model).items()},
        **{_OPTIMIZER + name: tensor for name, tensor in optimizer.items()},
        **{f"{_SUMS}{index}": leaf for index, leaf in enumerate(leaves) if leaf is not None},
        **{_AVERAGE + name: tensor for name, tensor in (state.average or {}).items()},
    }
    meta = {
        "step": state.step,
        "tokens": state.tokens,
        "optimizer": {
            "kind": run.optimizer.kind,
            "state": scalars,
            "untrained": untrained_parameters(state.optimizer),
        },
        "control": state.control.to_json(),
        "sums": None if state.sums is None else _pytree.treespec_dumps(spec),
        "seeds": {"train": run.train.seed, "data": run.data.seed},
        "config": io.to_dict(run),
    }
    return tensors, meta


def load_model(model: Model, folder: Path, *, average: bool = False) -> Checkpoint:
    """Fill ``model`` from a checkpoint.

    Args:
        average: with the moving average of the weights, where the checkpoint has one.

    Raises:
        CheckpointError: damage, or another model's checkpoint.
    """
    checkpoint = load(folder)
    known = (_MODEL, _OPTIMIZER, _SUMS, _AVERAGE)
    stray = sorted(name for name in checkpoint.tensors if not name.startswith(known))
    if stray:
        raise CheckpointError(f"{folder}: nothing takes its tensors {shortened(stray)}")
    wanted = model_tensors(model)
    found = widened(_under(checkpoint.tensors, _MODEL))
    match(found, wanted, str(folder))
    smooth = _under(checkpoint.tensors, _AVERAGE) if average else {}
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(smooth.get(name, found[name]))
    return checkpoint


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half-precision weights, as a conversion leaves them, in float32, which loses nothing."""
    half = (torch.float16, torch.bfloat16)
    return {name: t.float() if t.dtype in half else t for name, t in tensors.items()}


def resume(state: TrainState, run: RunConfig, folder: Path) -> None:
    """Continue where a checkpoint stopped.

    Raises:
        CheckpointError: damage, or the checkpoint of another model or optimiser.
    """
    checkpoint = load_model(state.model, folder)
    saved = checkpoint.meta["optimizer"]
    if saved["kind"] != run.optimizer.kind:
        raise CheckpointError(
            f"optimizer = {run.optimizer.kind!r}: must be {saved['kind']!r}, which wrote {folder}"
        )
    restore_state(
        state.optimizer,
        _under(checkpoint.tensors, _OPTIMIZER),
        saved["state"],
        saved["untrained"],
        str(folder),
    )
    state.step = int(checkpoint.meta["step"])
    state.tokens = int(checkpoint.meta["tokens"])
    state.control = Control.from_json(checkpoint.meta["control"])
    _restore_average(state, _under(checkpoint.tensors, _AVERAGE), folder)
    state.sums = None
    if checkpoint.meta["sums"] is not None:
        spec = _pytree.treespec_loads(checkpoint.meta["sums"])
        leaves = _under(checkpoint.tensors, _SUMS)
        state.sums = _pytree.tree_unflatten([leaves[str(i)] for i in range(len(leaves))], spec)


def _restore_average(state: TrainState, found: Mapping[str, Tensor], folder: Path) -> None:
    """An average that the run did not keep before begins at the weights of the checkpoint."""
    if state.average is None:
        return
    if not found:
        state.average = start_average(state.model)
        return
    match(found, state.average, f"the average of {folder}")
    state.average = dict(found)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
