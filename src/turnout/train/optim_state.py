"""An optimiser's state by parameter name: tensors for safetensors, numbers for JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.read import shortened

Scalars = dict[str, dict[str, float]]
_STEP = "step"  # AdamW keeps this count as a tensor, Adafactor as an integer, SGD not at all


def export_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], Scalars]:
    """Tensors named ``parameter.key``, and the step counts of parameters that had a gradient."""
    tensors: dict[str, Tensor] = {}
    scalars: Scalars = {}
    for name, param in _parameters(optimizer):
        if param not in optimizer.state:
            continue
        state = optimizer.state[param]
        scalars[name] = {_STEP: float(state[_STEP])} if _STEP in state else {}
        tensors |= {f"{name}.{key}": value for key, value in state.items() if key != _STEP}
    return tensors, scalars


def untrained_parameters(optimizer: Optimizer) -> list[str]:
    """Parameters that never had a gradient, and so no state."""
    return [name for name, param in _parameters(optimizer) if param not in optimizer.state]


def restore_state(
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    scalars: Scalars,
    untrained: Iterable[str],
    what: str,
    partial: bool = False,
) -> None:
    """Put exported state back; the hyperparameters stay those of ``optimizer``.

    ``untrained`` are the parameters that had no state when it was exported. Where it is ``partial``
    other ranks train what has step counts and no tensors here.

    Raises:
        CheckpointError: the state names a parameter that ``optimizer`` does not train, or lacks
            one that it does.
    """
    here = {name.rpartition(".")[0] for name in tensors} if partial else scalars.keys()
    by_parameter: dict[str, dict[str, Any]] = {
        name: dict(own) for name, own in scalars.items() if name in here
    }
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
