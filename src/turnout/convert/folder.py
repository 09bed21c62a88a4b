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

from turnout.checkpoint.stream import TensorPlace, read_header
from turnout.config.errors import UserError
from turnout.convert.quantised import quantised
from turnout.convert.stored import Places, Plain, Stored

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
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
        places: of what the files hold.
        tensors: what can be read, by name; parts of quantised weights are not by themselves.
        note: what becomes of quantised weights, for people; empty where there are none.
    """

    folder: Path
    config: Mapping[str, Any]
    places: Places
    tensors: Mapping[str, Stored]
    note: str

    @property
    def names(self) -> frozenset[str]:
        """What can be read."""
        return frozenset(self.tensors)

    def dtype(self, name: str) -> torch.dtype:
        """What ``read`` gives it in."""
        return self.tensors[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Of what ``read`` gives."""
        return self.tensors[name].shape

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own, dequantised."""
        return self.tensors[name].read()


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
    found = quantised(folder, config, places)
    tensors: dict[str, Stored] = {
        name: Plain(place) for name, place in places.items() if name not in found.parts
    }
    return Foreign(folder, config, places, {**tensors, **found.weights}, found.note)


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


def _instead(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return ""
    return (
        f"; {pickles[0]} may run code when it is opened and is not read: save the model as "
        "safetensors first"
    )
