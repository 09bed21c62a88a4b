"""An optimiser's state by parameter name: tensors for safetensors, numbers for JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from turnout.checkpoint.format import CheckpointError, Part
from turnout.checkpoint.read import shortened
from turnout.checkpoint.reader import Reader
from turnout.train.parts import PartOf, read_part

Scalars = dict[str, dict[str, float]]
_STEP = "step"  # AdamW keeps this count as a tensor, Adafactor as an integer, SGD not at all
_MEANS = {"row": -1, "column": -2}  # of Adafactor: the dimension that each is the mean over


def export_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], Scalars]:
    """Tensors named ``parameter.key``, and the step counts of parameters that had a gradient."""
    tensors: dict[str, Tensor] = {}
    scalars: Scalars = {}
    for name, param in _parameters(optimizer):
        if param not in optimizer.state:
            continue
        state = optimizer.state[param]
        scalars[name] = {_STEP: float(state[_STEP])} if _STEP in state else {}
        tensors |= {
            f"{name}.{key}": value
            for key, value in state.items()
            if key != _STEP and value is not None
        }
    return tensors, scalars


def untrained_parameters(optimizer: Optimizer) -> list[str]:
    """Parameters that never had a gradient, and so no state."""
    return [name for name, param in _parameters(optimizer) if param not in optimizer.state]


def state_part(name: str, value: Tensor, part_of: PartOf) -> Part | None:
    """Where this process's block of an exported tensor lies in the whole."""
    parameter, _, key = name.rpartition(".")
    return part_of(parameter, value, _MEANS.get(key))


def read_state(
    reader: Reader, prefix: str, optimizer: Optimizer, part_of: PartOf
) -> dict[str, Tensor]:
    """This process's blocks of the exported state that a checkpoint holds under ``prefix``.

    State of parameters that only other processes train is left out, that of parameters which
    nobody does is in it.
    """
    params = dict(_parameters(optimizer))
    found: dict[str, Tensor] = {}
    for stored in reader.index.tensors:
        name = stored.removeprefix(prefix)
        if name == stored:
            continue
        parameter, _, key = name.rpartition(".")
        shape = list(params[parameter].shape) if parameter in params else []
        if key in _MEANS and len(shape) > 1:
            del shape[_MEANS[key]]
        part = state_part(name, torch.empty(shape, device="meta"), part_of)
        if parameter not in params:
            found |= {} if part is None else {name: reader.tensor(stored)}
        elif part is not None:
            found[name] = read_part(reader, stored, part)
    return found


def restore_state(
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    scalars: Scalars,
    untrained: Iterable[str],
    what: str,
) -> None:
    """Put exported state back; the hyperparameters stay those of ``optimizer``.

    ``untrained`` are the parameters that had no state when it was exported.

    Raises:
        CheckpointError: the state names a parameter that ``optimizer`` does not train, or lacks
            one that it does.
    """
    by_parameter: dict[str, dict[str, Any]] = {name: dict(own) for name, own in scalars.items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(".")
        by_parameter.setdefault(parameter, {})[key] = tensor
    names = [name for name, _ in _parameters(optimizer)]
    unknown = sorted(by_parameter.keys() - set(names))
    if unknown:
        raise CheckpointError(
            f"{what} belongs to another model: it has optimiser state of {shortened(unknown)}, "
            "which this run does not train"
        )
    bare = sorted(name for name, own in by_parameter.items() if own.keys() <= {_STEP})
    missing = sorted({*bare, *(set(names) - by_parameter.keys() - set(untrained))})
    if missing:
        raise CheckpointError(
            f"{what} is not complete: it lacks optimiser state of {shortened(missing)}"
        )
    state = {index: by_parameter[name] for index, name in enumerate(names) if name in by_parameter}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameters(optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    return [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]
