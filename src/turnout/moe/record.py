"""The routing of a forward pass as data: which expert served which token, layer by layer.

A record can be saved, loaded and replayed: a model that is given one takes its experts, with
gradients to the routers through the combine weights. Another engine's is as good as ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from turnout.config.errors import UserError
from turnout.moe.stats import LayerDecision
from turnout.pytree import pytree

FORMAT = "turnout-routing"
PARTS = ("expert", "named", "live", "weight", "log_probability")


@pytree(static=("names",))
@dataclass(frozen=True)
class RoutingRecord:
    """Decisions of the sparse layers, in order; ``names`` are those of their LayerStats."""

    names: tuple[str, ...]
    layers: tuple[LayerDecision, ...]

    @staticmethod
    def of_experts(names: Sequence[str], expert: Int[Tensor, "B S L K"]) -> "RoutingRecord":
        """From expert numbers alone, as serving engines return them; -1 where a token took none."""
        return RoutingRecord(tuple(names), tuple(map(LayerDecision.of, expert.unbind(2))))

    @staticmethod
    def join(records: Sequence["RoutingRecord"]) -> "RoutingRecord":
        """Records of the same layers, the rows of one below those of the other."""
        layers = zip(*(record.layers for record in records), strict=True)
        return RoutingRecord(records[0].names, tuple(map(_joined, layers)))

    def save(self, path: Path | str) -> None:
        """Writes a safetensors file: ``NAME.expert`` and the other parts of each layer."""
        tensors = {
            f"{name}.{part}": getattr(layer, part).detach().cpu().clone().contiguous()
            for name, layer in zip(self.names, self.layers, strict=True)
            for part in PARTS
        }
        save_file(tensors, str(path), {"format": FORMAT, "layers": "\n".join(self.names)})

    @staticmethod
    def load(path: Path | str) -> "RoutingRecord":
        """Reads what ``save`` wrote, or any file that holds ``NAME.expert`` [B, S, K] for layers.

        Raises:
            UserError: the file cannot be read, or holds no routing.
        """
        tensors, order = _read(Path(path))
        found = [name.removesuffix(".expert") for name in tensors if name.endswith(".expert")]
        names = order or sorted(found)
        if not found or set(names) != set(found):
            raise UserError(f"{path}: holds no record of routing (tensors NAME.expert [B, S, K])")
        for name in names:
            _check(path, tensors, name)
        return RoutingRecord(tuple(names), tuple(_layer(tensors, name) for name in names))

    def by_layer(self) -> Mapping[str, LayerDecision]:
        """The decisions by layer, for ``RoutingContext.replay``."""
        return dict(zip(self.names, self.layers, strict=True))


def _joined(layers: Sequence[LayerDecision]) -> LayerDecision:
    return LayerDecision(
        *(
            torch.cat([getattr(layer, field.name) for layer in layers])
            for field in fields(LayerDecision)
        )
    )


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            layers = (file.metadata() or {}).get("layers", "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the record {str(path)!r}: {error}") from error
    return tensors, layers.split("\n") if layers else []


def _check(path: Path | str, tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises UserError unless all parts of a layer are [B, S, K], each of its kind."""
    shape = tensors[f"{name}.expert"].shape
    for part, right in _KINDS.items():
        found = tensors.get(f"{name}.{part}")
        if found is not None and (len(shape) != 3 or found.shape != shape):
            raise UserError(
                f"{path}: {name}.{part}: must be [B, S, K] as all parts of a layer, not "
                f"{list(found.shape)}"
            )
        if found is not None and not right(found):
            raise UserError(f"{path}: {name}.{part}: cannot hold {found.dtype}")


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and values.dtype != torch.bool


_KINDS: Mapping[str, Callable[[Tensor], bool]] = {
    "expert": _whole,
    "named": _whole,
    "live": lambda values: values.dtype == torch.bool,
    "weight": torch.is_floating_point,
    "log_probability": torch.is_floating_point,
}


def _layer(tensors: Mapping[str, Tensor], name: str) -> LayerDecision:
    known = LayerDecision.of(tensors[f"{name}.expert"])
    found = {part: tensors.get(f"{name}.{part}") for part in PARTS}
    return replace(known, **{part: each for part, each in found.items() if each is not None})
