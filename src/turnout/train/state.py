"""What training changes and a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree

from turnout.checkpoint.format import Checkpoint, CheckpointError, Part
from turnout.checkpoint.read import load, match, shortened
from turnout.checkpoint.reader import Reader
from turnout.config import io
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.objectives import StepSums
from turnout.train.average import Average, start_average
from turnout.train.control import Control
from turnout.train.optim import build_optimizer
from turnout.train.optim_state import export_state, restore_state, untrained_parameters
from turnout.train.ranks import Alone, Held, Ranks

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
        ranks: the processes that hold all this together.
        still: experts of a stack that do not train, by parameter, where others do.
    """

    model: Model
    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    sums: StepSums | None = None
    average: Average | None = None
    control: Control = field(default_factory=Control)
    ranks: Ranks = field(default_factory=Alone)
    still: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def fresh(
        run: RunConfig,
        model: Model,
        ranks: Ranks | None = None,
        still: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "TrainState":
        """At step 0; ``model`` already has its first weights, laid over ``ranks``."""
        ranks = Alone() if ranks is None else ranks
        weights = ranks.weights(model)
        average = start_average(weights) if run.train.average > 0 else None
        optimizer = build_optimizer(run.optimizer, Held(weights), ranks.whole)
        return TrainState(model, optimizer, average=average, ranks=ranks, still=still or {})

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What this rank holds of the parameters."""
        return self.ranks.weights(self.model)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The same with the saved buffers."""
        weights = self.weights
        found = model_tensors(self.model)
        return {name: weights.get(name, tensor) for name, tensor in found.items()}


def model_tensors(model: Model) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied tensor once, under its first name."""
    seen: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            found[name] = tensor
    return found


def export(state: TrainState, run: RunConfig) -> tuple[dict[str, Part], dict[str, Any]]:
    """Everything a checkpoint holds: what this rank has of tensors by global name, and JSON."""
    optimizer, scalars = export_state(state.optimizer)
    leaves, spec = _pytree.tree_flatten(state.sums)
    sums = {f"{_SUMS}{index}": leaf for index, leaf in enumerate(leaves) if leaf is not None}
    parts = {
        **_parts(state, _MODEL, state.tensors),
        **_parts(state, _OPTIMIZER, optimizer),
        **{name: Part.whole(leaf) for name, leaf in sums.items()},
        **_parts(state, _AVERAGE, state.average or {}),
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
    return parts, meta


def _parts(state: TrainState, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    found = {}
    for name, tensor in tensors.items():
        weight, without = _weight(prefix, name)
        part = state.ranks.part(weight, tensor, without)
        if part is not None:
            found[prefix + name] = part
    return found


def _weight(prefix: str, name: str) -> tuple[str, int | None]:
    """The parameter that a tensor belongs to, and which of its dimensions the tensor lacks."""
    if prefix != _OPTIMIZER:
        return name, None
    weight, _, key = name.rpartition(".")
    return weight, {"row": -1, "column": -2}.get(key)


def load_model(model: Model, folder: Path, *, average: bool = False) -> Checkpoint:
    """Fill ``model`` from a checkpoint.

    Args:
        average: with the moving average of the weights, where the checkpoint has one.

    Raises:
        CheckpointError: damage, or another model's checkpoint.
    """
    checkpoint = load(folder)
    _refuse_stray(checkpoint.tensors, folder)
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
    """Continue where a checkpoint stopped, whatever the layout of the ranks that wrote it.

    Raises:
        CheckpointError: damage, or the checkpoint of another model or optimiser.
    """
    reader = Reader(folder)
    reader.check_together(state.ranks.messages)
    meta = reader.index.meta
    saved = meta["optimizer"]
    if saved["kind"] != run.optimizer.kind:
        raise CheckpointError(
            f"optimizer = {run.optimizer.kind!r}: must be {saved['kind']!r}, which wrote {folder}"
        )
    _fill_model(state, reader)
    restore_state(
        state.optimizer,
        _blocks(state, reader, _OPTIMIZER),
        saved["state"],
        saved["untrained"],
        str(folder),
        partial=state.ranks.size > 1,
    )
    state.step = int(meta["step"])
    state.tokens = int(meta["tokens"])
    state.control = Control.from_json(meta["control"])
    _restore_average(state, reader)
    state.sums = None
    if meta["sums"] is not None:
        spec = _pytree.treespec_loads(meta["sums"])
        leaves = _blocks(state, reader, _SUMS)
        state.sums = _pytree.tree_unflatten([leaves[str(i)] for i in range(len(leaves))], spec)


def _fill_model(state: TrainState, reader: Reader) -> None:
    described = reader.described()
    _refuse_stray(described, reader.folder)
    wanted = {}
    for name, tensor in state.tensors.items():
        whole = state.ranks.whole(name)
        shape = tuple(tensor.shape) if whole is None else whole.shape
        wanted[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    match(widened(_under(described, _MODEL)), wanted, str(reader.folder))
    found = _blocks(state, reader, _MODEL)
    with torch.no_grad():
        for name, tensor in state.tensors.items():
            if name in found:
                tensor.copy_(found[name])
    state.ranks.refresh(state.model)


def _blocks(state: TrainState, reader: Reader, prefix: str) -> dict[str, Tensor]:
    """This rank's blocks of the tensors under a prefix."""
    found = {}
    for name, whole in _under(reader.described(), prefix).items():
        weight, without = _weight(prefix, name)
        block = state.ranks.block(weight, tuple(whole.shape), without)
        if block is not None:
            found[name] = reader.block(prefix + name, block)
    return found


def _refuse_stray(tensors: Mapping[str, Tensor], folder: Path) -> None:
    known = (_MODEL, _OPTIMIZER, _SUMS, _AVERAGE)
    stray = sorted(name for name in tensors if not name.startswith(known))
    if stray:
        raise CheckpointError(f"{folder}: nothing takes its tensors {shortened(stray)}")


def _restore_average(state: TrainState, reader: Reader) -> None:
    """An average that the run did not keep before begins at the weights of the checkpoint."""
    if state.average is None:
        return
    found = _blocks(state, reader, _AVERAGE)
    state.average = start_average(state.weights)
    if not found:
        return
    own = {name: tensor for name, tensor in state.average.items() if name in found}
    match(found, own, f"the average of {reader.folder}")
    state.average |= found


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
