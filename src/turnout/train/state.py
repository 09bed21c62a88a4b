"""What training changes and a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree

from turnout.checkpoint.format import CheckpointError, Part
from turnout.checkpoint.ranks import Alone, Ranks
from turnout.checkpoint.read import shortened
from turnout.checkpoint.reader import Reader
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.objectives import StepSums
from turnout.train.average import Average, start_average
from turnout.train.control import Control
from turnout.train.optim import build_optimizer
from turnout.train.optim_state import (
    export_state,
    read_state,
    restore_state,
    state_part,
    untrained_parameters,
)
from turnout.train.parts import PartOf, fill, whole

_NOTHING = torch.empty(0)  # where only the name of a weight is asked about
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


def held(tensors: Mapping[str, Tensor], part_of: PartOf) -> dict[str, Part]:
    """What this process holds of the tensors that ``export`` gave, as a checkpoint wants it."""
    parts: dict[str, Part | None] = {}
    for name, tensor in tensors.items():
        section, _, rest = name.partition(".")
        if f"{section}." == _SUMS:
            parts[name] = Part.whole(tensor)
        elif f"{section}." == _OPTIMIZER:
            parts[name] = state_part(rest, tensor, part_of)
        else:
            parts[name] = part_of(rest, tensor, None)
    return {name: part for name, part in parts.items() if part is not None}


def load_model(
    model: Model,
    folder: Path,
    *,
    average: bool = False,
    part_of: PartOf = whole,
    messages: Ranks | None = None,
) -> Reader:
    """Fill ``model`` from a checkpoint, every file of which is checked.

    Args:
        average: with the moving average of the weights, where the checkpoint has one.
        part_of: which blocks this process holds.
        messages: the processes that load together and share the checking out.

    Returns:
        The checkpoint, to read the rest of it.

    Raises:
        CheckpointError: damage, or another model's checkpoint.
    """
    reader = Reader(folder)
    reader.check_together(Alone() if messages is None else messages)
    known = (_MODEL, _OPTIMIZER, _SUMS, _AVERAGE)
    stray = sorted(name for name in reader.index.tensors if not name.startswith(known))
    if stray:
        raise CheckpointError(f"{folder}: nothing takes its tensors {shortened(stray)}")
    wanted = model_tensors(model)
    fill(reader, _MODEL, wanted, part_of, str(folder))
    if average:
        smooth = {name: t for name, t in wanted.items() if _AVERAGE + name in reader.index.tensors}
        fill(reader, _AVERAGE, smooth, part_of, f"the average of {folder}")
    return reader


def resume(
    state: TrainState,
    run: RunConfig,
    folder: Path,
    part_of: PartOf = whole,
    messages: Ranks | None = None,
) -> None:
    """Continue where a checkpoint stopped, whatever the layout of the run that wrote it.

    Args:
        part_of: which blocks this process holds.
        messages: the processes that resume together.

    Raises:
        CheckpointError: damage, or the checkpoint of another model or optimiser.
    """
    reader = load_model(state.model, folder, part_of=part_of, messages=messages)
    meta = reader.index.meta
    saved = meta["optimizer"]
    if saved["kind"] != run.optimizer.kind:
        raise CheckpointError(
            f"optimizer = {run.optimizer.kind!r}: must be {saved['kind']!r}, which wrote {folder}"
        )
    mine = {
        name: own
        for name, own in saved["state"].items()
        if part_of(name, _NOTHING, None) is not None
    }
    tensors = read_state(reader, _OPTIMIZER, state.optimizer, part_of)
    restore_state(state.optimizer, tensors, mine, saved["untrained"], str(folder))
    state.step = int(meta["step"])
    state.tokens = int(meta["tokens"])
    state.control = Control.from_json(meta["control"])
    _restore_average(state, reader, part_of)
    state.sums = None
    if meta["sums"] is not None:
        spec = _pytree.treespec_loads(meta["sums"])
        count = sum(name.startswith(_SUMS) for name in reader.index.tensors)
        leaves = [reader.tensor(f"{_SUMS}{number}") for number in range(count)]
        state.sums = _pytree.tree_unflatten(leaves, spec)


def _restore_average(state: TrainState, reader: Reader, part_of: PartOf) -> None:
    """An average that the run did not keep before begins at the weights of the checkpoint."""
    if state.average is None:
        return
    if not any(name.startswith(_AVERAGE) for name in reader.index.tensors):
        state.average = start_average(state.model)
        return
    fill(reader, _AVERAGE, state.average, part_of, f"the average of {reader.folder}")
