"""A folder of somebody else's: what is in it, read with care.

Nothing in it is trusted: no path leads out of it, no class that it names is imported, nothing is
unpickled, and counts are checked before memory is asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turnout.checkpoint.stream import TensorPlace, read_header, read_tensor
from turnout.config.errors import UserError
from turnout.convert.fp8 import DEQUANTISED, SUFFIX, block_of, dequantise, scale_shape

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
MOST_JSON = 64 * 2**20  # bytes of a JSON file
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
# Files for tokenizers and generation, which a conversion takes along unread.
COMPANIONS = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model"),
    *("special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json"),
    *("merges.txt", "sentencepiece.bpe.model", "chat_template.jinja"),
)


@dataclass(frozen=True)
class Foreign:
    """A Hugging Face checkpoint: its configuration, and where each tensor lies.

    Attributes:
        block: of the weights that are quantised; None where none are.
    """

    folder: Path
    config: Mapping[str, Any]
    places: Mapping[str, tuple[Path, TensorPlace]]
    block: tuple[int, int] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Tensors; scales belong to what they scale."""
        scales = {name + SUFFIX for name in self.places}
        return frozenset(self.places if self.block is None else self.places.keys() - scales)

    def dtype(self, name: str) -> torch.dtype:
        """What ``read`` gives it in."""
        return DEQUANTISED if self._scaled(name) else self.places[name][1].dtype

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own, dequantised."""
        tensor = read_tensor(*self.places[name])
        if self.block is None or not self._scaled(name):
            return tensor
        return dequantise(tensor, read_tensor(*self.places[name + SUFFIX]), self.block)

    def _scaled(self, name: str) -> bool:
        return self.block is not None and name + SUFFIX in self.places


def is_foreign(folder: Path) -> bool:
    """Whether that looks like a Hugging Face folder."""
    return (folder / CONFIG).is_file()


def open_foreign(folder: Path) -> Foreign:
    """Reads the configuration and all headers, and no tensor.

    Raises:
        UserError: one line that says which file is wrong and why.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    config = read_json(within(folder, CONFIG))
    shards, mapped = weight_files(folder)
    places: dict[str, tuple[Path, TensorPlace]] = {}
    for shard in shards:
        path = within(folder, shard)
        for name, place in read_header(path).items():
            if name in places:
                raise UserError(f"{path}: {name} stands in {places[name][0].name} as well")
            places[name] = (path, place)
    if mapped is not None:
        _check_map(folder, mapped, places)
    block = block_of(config)
    if block is not None:
        _check_scales(folder, places, block)
    return Foreign(folder, config, places, block)


def within(folder: Path, name: str) -> Path:
    """A file of the folder, by its plain name.

    Links are followed into the folder itself and, in the hub's cache, into the blobs beside it.

    Raises:
        UserError: it is no plain name, leads out of the folder, or is no file.
    """
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name:
        raise UserError(f"{folder}: names the file {name!r}: must be a name within the folder")
    path = folder / name
    if not path.exists() and not path.is_symlink():
        raise UserError(f"{path}: is missing{_instead(folder)}")
    real, allowed = path.resolve(), [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise UserError(
            f"{path}: is a link to {real}, out of the folder: put the file there itself"
        )
    if not real.is_file():
        raise UserError(f"{path}: is no plain file")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """An object.

    Raises:
        UserError: the file is too large, is no JSON, or holds no object.
    """
    if path.stat().st_size > MOST_JSON:
        raise UserError(f"{path}: has {path.stat().st_size:,} bytes, more than {MOST_JSON:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return found


def weight_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """The files of tensors, and what the index says of them, where there is one.

    Raises:
        UserError: the index is no JSON, or names no files.
    """
    if not (folder / INDEX).exists():
        return [SINGLE], None
    path = within(folder, INDEX)
    mapped = read_json(path).get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        raise UserError(f"{path}: weight_map must give the file of each tensor")
    return sorted(set(mapped.values())), mapped


def _check_map(folder: Path, mapped: Mapping[str, str], places: Mapping[str, Any]) -> None:
    for name, file in mapped.items():
        if name not in places or places[name][0].name != file:
            raise UserError(f"{folder / INDEX}: {name} is not in {file}, where it should be")
    stray = sorted(places.keys() - mapped.keys())
    if stray:
        raise UserError(f"{folder / INDEX}: does not name {stray[0]}, which a shard holds")


def _check_scales(
    folder: Path, places: Mapping[str, tuple[Path, TensorPlace]], block: tuple[int, int]
) -> None:
    """Every 8-bit weight is a matrix with as many scales as it has blocks."""
    for name, (_, place) in places.items():
        if place.dtype not in EIGHT_BITS:
            continue
        scales = places.get(name + SUFFIX)
        if len(place.shape) != 2 or scales is None:
            raise UserError(f"{folder}: {name} has 8 bits and no {name + SUFFIX} for its blocks")
        wanted = scale_shape(place.shape, block)
        if scales[1].shape != wanted:
            raise UserError(
                f"{folder}: {name + SUFFIX} is {list(scales[1].shape)}, must be {list(wanted)}"
            )


def _instead(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return ""
    return (
        f"; {pickles[0]} may run code when it is opened and is not read: save the model as "
        "safetensors first"
    )
